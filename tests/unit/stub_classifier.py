"""A moderation endpoint on this machine that finds every text harmful that holds a word, BAD unless told otherwise."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

BAD = "BAD"


class StubClassifier:
    """Speaks both protocols. ``answer`` replaces its bytes; it answers nothing before ``open`` is set.

    ``dies_after``: how many requests it answers before every further one gets 500.
    ``keeps`` connections open only when told so: unit tests run each request in an event loop of its own.
    ``most_at_once``: how many requests it has had without an answer at the same time.
    """

    def __init__(self) -> None:
        self.status, self.bad = 200, BAD
        self.keeps = False
        self.connections = 0
        self.at_once = self.most_at_once = 0
        self._counting = threading.Lock()
        self.answer: bytes | None = None
        self.dies_after: int | None = None
        self.open = threading.Event()
        self.open.set()
        self.asked = threading.Event()
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        classifier = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                classifier.connections += 1
                super().setup()

            def do_POST(self) -> None:
                classifier.judge(self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.root = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def moderations_url(self) -> str:
        return f"{self.root}/moderations"

    @property
    def chat_url(self) -> str:
        return f"{self.root}/chat/completions"

    @property
    def judged(self) -> list[list[str]]:
        """The texts of each request."""
        return [_texts(request) for request in self.requests]

    def judge(self, handler: BaseHTTPRequestHandler) -> None:
        request = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        self.requests.append(request)
        self.keys.append(handler.headers["authorization"])
        self._count(1)
        self.asked.set()
        self.open.wait()
        verdicts = [self.bad in text for text in _texts(request)]
        if handler.path.endswith("/moderations"):
            content: Any = {"id": "modr-1", "results": [{"flagged": verdict, "categories": {}} for verdict in verdicts]}
        else:
            said = "unsafe\nS1" if verdicts[0] else "safe"
            content = {"choices": [{"index": 0, "message": {"role": "assistant", "content": said}}]}
        answer = json.dumps(content).encode() if self.answer is None else self.answer
        dead = self.dies_after is not None and len(self.requests) > self.dies_after
        # Before the answer, after which who asked may send the next request at once.
        self._count(-1)
        handler.send_response(500 if dead else self.status)
        handler.send_header("content-length", str(len(answer)))
        if not self.keeps:
            handler.send_header("connection", "close")
        handler.end_headers()
        # Who asked may have given up by now.
        with suppress(OSError):
            handler.wfile.write(answer)

    def _count(self, more: int) -> None:
        with self._counting:
            self.at_once += more
            self.most_at_once = max(self.most_at_once, self.at_once)

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


def _texts(request: dict[str, Any]) -> list[str]:
    return list(request["input"]) if "input" in request else [request["messages"][0]["content"]]


@contextmanager
def classifier() -> Iterator[StubClassifier]:
    stub = StubClassifier()
    try:
        yield stub
    finally:
        stub.close()
