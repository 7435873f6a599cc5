"""A mock of an OpenAI-compatible server with an exact schedule, for testing and calibrating what measures.

``python -m loadtest._mock_server --port 0`` prints its URL as one line on standard output and serves until it is
ended. A request may carry a field ``mock`` (see ``Script``) that changes how it is answered. ``GET /mock/sent`` tells
what was truly sent when, on the machine's monotonic clock; ``DELETE /mock/sent`` forgets it.
"""

import argparse
import asyncio
import gc
import json
import signal
import time
from collections.abc import Callable
from typing import Any, cast

import httptools
from pydantic import ValidationError

from loadtest._mock_script import Fault, Script, Wording
from loadtest._mock_state import State
from loadtest._mock_stream import PreciseSelector, Stream, Truth

LARGEST_BODY = 16 << 20
"""Bytes."""
WRITE_BUFFER = 4 << 20
"""Bytes that wait for a client that does not read. Past it the mock hangs up."""
STREAM_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "transfer-encoding": "chunked"}


class Connection(asyncio.Protocol):
    """One client's connection: requests one after the other."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._transport = cast("asyncio.Transport", None)
        self._stream: tuple[int, Stream, Truth] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio calls it."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def data_received(self, data: bytes) -> None:
        """asyncio calls it."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._transport.close()

    def pause_writing(self) -> None:
        """The client does not read."""
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio calls it."""
        if self._timer is not None:
            self._timer.cancel()
        if self._stream is not None:
            key, stream, truth = self._stream
            stream.stop()
            truth.disconnected = not truth.complete
            self._state.release(key, stream.tokens, complete=False)

    # httptools calls these.
    def on_message_begin(self) -> None:
        self._url, self._headers, self._body = b"", {}, bytearray()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body += body
        if len(self._body) > LARGEST_BODY:
            self._transport.close()

    def on_message_complete(self) -> None:
        path = self._url.split(b"?")[0].decode("latin-1")
        routes: dict[tuple[str, str], Callable[[], None]] = {
            ("POST", "/v1/chat/completions"): lambda: self._complete(chat=True),
            ("POST", "/v1/completions"): lambda: self._complete(chat=False),
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): lambda: self._answer(200, self._state.metrics(), "text/plain; version=0.0.4"),
            ("GET", "/health"): lambda: self._answer(200, ""),
            ("GET", "/mock/sent"): self._sent,
            ("DELETE", "/mock/sent"): self._forget,
        }
        unknown = lambda: self._error(404, "not_found_error", f"no route {path!r}")  # noqa: E731
        routes.get((self._parser.get_method().decode(), path), unknown)()

    def _models(self) -> None:
        self._json(200, {"object": "list", "data": [{"id": self._state.model, "object": "model", "owned_by": "mock"}]})

    def _sent(self) -> None:
        requests = {key: truth.to_json() for key, truth in self._state.truths.items()}
        self._json(200, {"now": time.perf_counter(), "requests": requests})

    def _forget(self) -> None:
        self._state.truths.clear()
        self._json(200, {})

    def _complete(self, *, chat: bool) -> None:
        received = time.perf_counter()
        try:
            body = dict(json.loads(self._body))
            script = Script.model_validate(self._state.script.model_dump() | body.get("mock", {}))
        except (ValueError, TypeError, RecursionError, ValidationError) as error:
            self._error(400, "invalid_request_error", str(error))
            return
        if self._stream is not None:  # the one of the answer before, or one that a pipelining client does not wait for
            self._transport.close()
            return
        number = next(self._state.numbers)
        request_id = self._headers.get(b"x-request-id", b"mock-%d" % number).decode("latin-1")
        wording = Wording(script, body, chat=chat, model=self._state.model, request_id=request_id)
        if self._refuses(script.fault, wording):
            return
        if not body.get("stream"):
            self._timer = asyncio.get_running_loop().call_at(
                received + script.ttft_s + wording.chunks * script.itl_s, self._json, 200, wording.whole()
            )
            return
        truth = Truth(received)
        head = self._head(200, STREAM_HEADERS | {"x-request-id": request_id})
        stream = Stream(self._transport, wording, truth, head, self._stream_ended)
        self._stream = number, stream, truth
        self._state.remember(request_id, truth)
        self._state.admit(number, stream, wording)

    def _refuses(self, fault: Fault | None, wording: Wording) -> bool:
        if fault is Fault.TOO_MANY_REQUESTS or self._state.full:
            self._error(429, "rate_limit_exceeded", "too many requests", {"retry-after": "2"})
        elif fault is Fault.INTERNAL_ERROR:
            self._answer(500, "<html>Internal Server Error</html>", "text/html")
        elif fault is Fault.NOT_SSE:
            self._json(200, wording.whole())
        elif fault is Fault.NOT_HTTP:
            self._transport.write(b"220 mail.example ESMTP\r\n")
        else:
            return False
        return True

    def _stream_ended(self) -> None:
        assert self._stream is not None
        key, stream, truth = self._stream
        self._stream = None
        self._state.release(key, stream.tokens, complete=truth.complete)

    def _error(self, status: int, kind: str, message: str, headers: dict[str, str] | None = None) -> None:
        error = {"message": message, "type": kind, "param": None, "code": kind}
        self._json(status, {"error": error}, headers)

    def _json(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        self._answer(status, json.dumps(value), "application/json", headers)

    def _answer(self, status: int, text: str, kind: str = "text/plain", headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        lengths = {"content-type": kind, "content-length": str(len(body))}
        self._transport.write(self._head(status, lengths | (headers or {})) + body)

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {status} Mock\r\n{lines}\r\n".encode("latin-1")


async def serve(state: State, host: str, port: int) -> None:
    """Serve until SIGINT or SIGTERM; prints the URL when ready."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = await loop.create_server(lambda: Connection(state), host, port, backlog=4096)
    bound = server.sockets[0].getsockname()[1]
    print(f"http://{host}:{bound}", flush=True)
    gc.collect()
    gc.freeze()
    await stop.wait()
    server.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m loadtest._mock_server", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--model", default="mock")
    parser.add_argument("--slots", type=int, help="most concurrent requests; further ones wait (default: no limit)")
    parser.add_argument("--queue", type=int, help="most requests that wait; further ones get 429 (default: no limit)")
    for name, field in Script.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", default=field.default, help=f"{field.description}")
    flags = vars(parser.parse_args())
    try:
        script = Script.model_validate({name: flags[name] for name in Script.model_fields})
    except ValidationError as error:
        mistake = error.errors()[0]
        parser.error(f"--{str(mistake['loc'][0]).replace('_', '-')} {mistake['input']}: {mistake['msg']}.")
    state = State(script, flags["model"], flags["slots"], flags["queue"])
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())) as runner:
        try:
            runner.run(serve(state, flags["host"], flags["port"]))
        except OSError as error:
            parser.error(f"Cannot listen on {flags['host']}:{flags['port']} ({error.strerror}); choose another --port.")


if __name__ == "__main__":
    main()
