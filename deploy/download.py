"""Puts the model where replicas will look for it: ``python -m deploy.download SETTINGS``, as JSON or YAML."""

import sys
from collections.abc import Sequence

from deploy.errors import ServeError, UsageError
from deploy.loading import load
from deploy.model import prepare
from deploy.strict_yaml import parse_yaml


def main(argv: Sequence[str] | None = None) -> int:
    """Download or build the model that the settings name; returns 0, or an error's exit code after its sentence."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        if len(arguments) != 1:
            raise UsageError(f"{len(arguments)} arguments given: give the settings as one argument, as JSON or YAML")
        settings = parse_yaml(arguments[0], "SETTINGS")
        if not isinstance(settings, dict):
            raise UsageError("SETTINGS is not a mapping: write settings as KEY: VALUE")
        prepared = prepare(load(settings), lambda line: print(line, file=sys.stderr, flush=True))
    except ServeError as error:
        print(f"deploy.download: {error}", file=sys.stderr)
        return error.exit_code
    print(prepared.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
