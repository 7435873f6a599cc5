"""A model hub of a few kilobytes: as much of the hub's HTTP interface as a download uses, on a free local port."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40
MODEL = "someone/small"


@dataclass
class StubHub:
    """One model at the revision ``main``, and what was asked for.

    ``refuse`` answers a path that matches with a status and an error code; with the status 0, not at all. ``cut_at``
    closes the connection after that many bytes of a file's content, and refuses to go on.
    ``requests`` are (method, path, Range header); ``tokens`` the Authorization headers that were sent.
    """

    files: Mapping[str, bytes]
    refuse: dict[str, tuple[int, str]] = field(default_factory=dict)
    cut_at: int | None = None
    silent: Event = field(default_factory=Event)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose content was asked for."""
        marker = f"/{MODEL}/resolve/{COMMIT}/"
        return {path.removeprefix(marker) for method, path, _ in self.requests if method == "GET" and marker in path}


@contextmanager
def stub_hub(files: Mapping[str, bytes]) -> Iterator[StubHub]:
    """Serve ``files`` as the model ``MODEL``."""
    hub = StubHub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.silent.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: StubHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing on stderr: tests read it."""

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            hub.tokens.add(self.headers.get("Authorization"))
            for pattern, (status, code) in hub.refuse.items():
                if re.search(pattern, path):
                    if status == 0:
                        hub.silent.wait(30)
                        return
                    self._send(status, b"", {"X-Error-Code": code} if code else {}, body=body)
                    return
            if path.startswith(f"/api/models/{MODEL}"):
                self._api(path.removeprefix(f"/api/models/{MODEL}"), body=body)
            elif file := re.fullmatch(f"/{MODEL}/resolve/{COMMIT}/(.+)", path):
                self._file(file[1], body=body)
            else:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body=body)

        def _api(self, rest: str, *, body: bool) -> None:
            files = [
                {"type": "file", "path": name, "rfilename": name, "size": len(content), "oid": etag(content)}
                for name, content in hub.files.items()
            ]
            if rest in ("", "/revision/main", f"/revision/{COMMIT}"):
                self._send_json({"id": MODEL, "sha": COMMIT, "siblings": files}, body=body)
            elif rest == f"/tree/{COMMIT}":
                self._send_json(files, body=body)
            else:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)

        def _file(self, name: str, *, body: bool) -> None:
            content = hub.files[name]
            headers = {"ETag": f'"{etag(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if hub.cut_at is not None and body and len(content) > hub.cut_at:
                self._cut(content[: hub.cut_at], len(content), headers)
            elif wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
                start = int(wanted[1])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                self._send(206, content[start:], headers, body=body)
            else:
                self._send(200, content, headers, body=body)

        def _cut(self, content: bytes, announced: int, headers: dict[str, str]) -> None:
            if self.headers.get("Range"):
                self._send(503, b"", {}, body=True)
                return
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(announced)}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _send_json(self, content: object, *, body: bool) -> None:
            self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body=body)

        def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, body: bool) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    return Handler


def etag(content: bytes) -> str:
    """The hub's name for this content, as for a file in large file storage: its SHA-256."""
    return hashlib.sha256(content).hexdigest()
