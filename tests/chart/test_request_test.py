"""Prevents a `helm test` that passes where keys are not asked for, or no stream comes back."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tests.chart.rendering import CHART

SCRIPT = CHART / "files" / "request_test.py"
KEY = "ms-key"


class Server(BaseHTTPRequestHandler):
    """A stand-in for the served API; a test changes what it does."""

    keys_required: ClassVar[bool]
    ends_with: ClassVar[str]

    def do_GET(self) -> None:
        self._answer(json.dumps({"data": [{"id": "demo"}]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert body["model"] == "demo"
        assert body["stream"] is True
        self._answer(f'data: {{"choices": []}}\n\ndata: {self.ends_with}\n\n')

    def _answer(self, text: str) -> None:
        allowed = not self.keys_required or self.headers["authorization"] == f"Bearer {KEY}"
        self.send_response(200 if allowed else 401)
        self.end_headers()
        self.wfile.write(text.encode() if allowed else b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serving(*, keys_required: bool, ends_with: str = "[DONE]") -> Iterator[str]:
    """The URL of a stand-in."""
    handler = type("Configured", (Server,), {"keys_required": keys_required, "ends_with": ends_with})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def run(url: str, *, key: str | None, keys_required: bool = True) -> tuple[int, list[str]]:
    """Exit code of the script, and what it printed."""
    environment = {"BASE_URL": url, "KEYS_REQUIRED": "true" if keys_required else "false"}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT.read_text()],
        env=environment | ({"API_KEY": key} if key else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return result.returncode, (result.stdout + result.stderr).splitlines()


def test_with_a_key_everything_is_tested() -> None:
    with serving(keys_required=True) as url:
        assert run(url, key=KEY) == (
            0,
            [
                "status without a key: 401",
                "status of the list of models: 200",
                "status of a streamed completion: 200",
                "last event of the stream: data: [DONE]",
                "demo answered with 1 events",
            ],
        )


def test_without_a_key_only_the_refusal_is_tested() -> None:
    with serving(keys_required=True) as url:
        code, lines = run(url, key=None)
    assert code == 0
    assert lines[-1] == "test.existingSecret is not set: nothing that needs a key is tested"


def test_without_keys_nothing_is_refused() -> None:
    with serving(keys_required=False) as url:
        code, lines = run(url, key=None, keys_required=False)
    assert (code, len(lines)) == (0, 4)


@pytest.mark.parametrize(
    ("keys_required", "ends_with", "key", "sentence"),
    [
        (False, "[DONE]", KEY, "failed: status without a key should be 401"),
        (True, "[DONE]", "ms-wrong", "failed: status of the list of models should be 200"),
        (True, '{"error": {}}', KEY, "failed: last event of the stream should be data: [DONE]"),
    ],
    ids=["keys are not asked for", "the key is refused", "the stream breaks off"],
)
def test_it_fails_when(keys_required: bool, ends_with: str, key: str, sentence: str) -> None:
    with serving(keys_required=keys_required, ends_with=ends_with) as url:
        code, lines = run(url, key=key)
    assert code == 1
    assert lines[-1] == sentence
