"""Progress on stderr."""

import sys
import time

_STARTED = time.monotonic()


def say(text: str) -> None:
    """Write one line with the time since the program started."""
    print(f"{time.monotonic() - _STARTED:7.1f} s  {text}", file=sys.stderr, flush=True)
