"""Prevents the demo on Kubernetes from calling a stream whole that was cut, refused or never begun."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from scripts.k8s_demo import client

BUSY = 'status 503: {"error": {"message": "later"}}'
ANSWERS = {
    "/whole": (200, b'data: {"choices": []}\n\ndata: [DONE]\n\n'),
    "/cut": (200, b'data: {"choices": []}\n\n'),
    "/empty": (200, b""),
    "/busy": (503, b'{"error": {"message": "later"}}'),
}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        status, body = ANSWERS[self.path]
        self.send_response(status)
        self.send_header("x-key", self.headers.get("authorization", "none"))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("path", "wrong"),
    [("/whole", ""), ("/cut", "the stream ended early"), ("/empty", "the stream ended early"), ("/busy", BUSY)],
)
def test_a_stream_is_whole_only_with_its_last_event(url: str, path: str, wrong: str) -> None:
    assert client.stream(url + path, "key", "{}") == wrong


def test_a_server_that_is_not_there_is_a_failure() -> None:
    assert "Connection refused" in client.stream("http://127.0.0.1:9/", "key", "{}")
    answer = client.request("http://127.0.0.1:9/", "key")
    assert answer["status"] == 0
    assert "Connection refused" in json.loads(str(answer["body"]))


def test_a_refusal_is_an_answer_like_any_other(url: str) -> None:
    assert client.request(url + "/busy", "", "{}") == {"status": 503, "body": '{"error": {"message": "later"}}'}


def test_the_load_counts_every_failure(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setattr("sys.argv", ["client.py", "load", url + "/cut", "key", "2", "{}"])
    client.main()
    found = json.loads(capsys.readouterr().out)
    assert found["streams"] == found["failed"] >= 2
    assert found["reasons"] == ["the stream ended early"]
