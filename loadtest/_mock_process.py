"""A mock server in a process of its own, for tests and for the self-test."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loadtest._errors import LoadTestError

ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the package."""


class MockServerError(LoadTestError):
    """The mock server did not start."""


@contextmanager
def mock_server(*flags: str) -> Iterator[str]:
    """Runs one on a free port, with the flags of its command line; its URL. Raises MockServerError."""
    command = [sys.executable, "-m", "loadtest._mock_server", "--port", "0", *flags]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            if not url:
                raise MockServerError("the mock server did not start: its own message says why")
            yield url
        finally:
            process.terminate()


def read_truth(url: str) -> dict[str, Any]:
    """What the mock server sent for each request id (``Truth.to_json``). Raises OSError."""
    with urllib.request.urlopen(f"{url}/mock/sent", timeout=60) as answer:  # noqa: S310 (always http)
        requests: dict[str, Any] = json.load(answer)["requests"]
    return requests


def take_truth(url: str) -> dict[str, Any]:
    """The same, and the mock server forgets it. Raises OSError."""
    requests = read_truth(url)
    forget = urllib.request.Request(f"{url}/mock/sent", method="DELETE")  # noqa: S310 (always http)
    urllib.request.urlopen(forget, timeout=60).close()  # noqa: S310 (always http)
    return requests
