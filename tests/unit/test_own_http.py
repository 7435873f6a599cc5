"""Prevents a server behind a proxy from asking the proxy for itself, so that it never becomes ready."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from deploy.own_http import FAILURES, ask
from tests.live.deployment import free_port


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/garbage":
            self.wfile.write(b"what?\r\n\r\n")
            return
        self.send_response(503 if self.path == "/dead" else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_proxy_of_the_environment_is_not_asked(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with ask(f"{url}/health", 30) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("path", ["/dead", "/garbage"])
def test_what_is_no_good_answer_is_a_failure(url: str, path: str) -> None:
    with pytest.raises(FAILURES):
        ask(f"{url}{path}", 30)


def test_nobody_there_is_a_failure() -> None:
    with pytest.raises(FAILURES):
        ask(f"http://127.0.0.1:{free_port()}/health", 30)
