"""The two sides of the gateway's bench: everything of it on, and everything off that settings turn off."""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

from deploy import keys

OFF = (
    *("--gateway.keys", "off", "--guard.safe-prompt", "off"),
    *("--no-limits.enabled", "--no-quotas.enabled", "--no-admission.enabled", "--no-log.access"),
)
OFF_HEADERS = {"x-side": "off"}
"""What a request for the side that is off has, where one server has both (``tests.bench.both_sides``)."""


@dataclass(frozen=True)
class Side:
    """Flags of serve.py for a server that has only this side, and the headers that a client needs."""

    name: str
    flags: tuple[str, ...]
    headers: dict[str, str]


class _Collector(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def both_sides() -> Iterator[tuple[Side, Side]]:
    """Everything on and everything off, with what the first needs: keys with quotas, a directory, a collector."""
    collector = ThreadingHTTPServer(("127.0.0.1", 0), _Collector)
    Thread(target=collector.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as directory:
        file, printed = Path(directory) / "keys.yaml", io.StringIO()
        quotas = ("--requests-per-minute", str(10**6), "--tokens-per-minute", str(10**9))
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            keys.main(["new", "--name", "bench", "--file", str(file), *quotas])
        endpoint = f"http://127.0.0.1:{collector.server_port}/v1/traces"
        flags = (
            *("--gateway.keys-file", str(file), "--gateway.open-metrics", "--log.format", "json"),
            *("--usage.directory", f"{directory}/usage", "--tracing.otlp-endpoint", endpoint),
        )
        key = {"authorization": f"Bearer {printed.getvalue().strip()}"}
        yield Side("on", flags, key), Side("off", OFF, OFF_HEADERS)
    collector.shutdown()
