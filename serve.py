#!/usr/bin/env python3
"""Serve a Mistral model over the OpenAI API; see ``python serve.py --help``."""

import sys

from deploy.cli import main

if __name__ == "__main__":
    sys.exit(main())
