"""One request and its answer over one connection, and the name of whatever goes wrong on the way."""

import json
import time

from loadtest._answer import Answer, RequestError, error_name
from loadtest._connection import Connection, Pool
from loadtest._request import ErrorKind
from loadtest._response import NotHttpError, Response
from loadtest._sse import EventTooLargeError, Parser

LARGEST_ERROR_BODY = 1 << 16
ERROR_BODY_S = 10.0
"""Seconds to wait for the rest of an error's body."""
LINGER_S = 1.0
"""Seconds to wait after ``[DONE]`` for the end of the HTTP message, so that the connection can be used again."""
STALE_S = 1.0
"""A server that had closed an idle connection shows it within one round trip. Later it is a failure of this request."""


class Exchange:
    """Runs once. ``answer``, ``response`` and the times hold what came, also after an error."""

    def __init__(self, pool: Pool, answer: Answer, timeout_s: float) -> None:
        self.answer = answer
        self.response = Response()
        self.headers_at: float | None = None
        self.sent = self.ended = time.perf_counter()
        """``sent``: when the client was ready. Connecting comes after: a slow server is no slow client."""
        self._pool = pool
        self._timeout_s = timeout_s
        self._deadline = self.sent + timeout_s
        self._connection: Connection | None = None

    def run(self, request: bytes) -> None:
        """Raises RequestError. Whatever happens, no connection stays behind in an unknown state."""
        try:
            at, data = self._start(request)
            self._read(at, data)
        except BaseException as error:
            self._hang_up()
            self.ended = time.perf_counter()
            if isinstance(error, RequestError) or not isinstance(error, Exception):
                raise
            raise self._named(error) from error

    def _start(self, request: bytes) -> tuple[float, bytes]:
        """Send the request, and once more on a new connection where the kept one turns out to have been closed."""
        self._connection = self._pool.reuse()
        if self._connection is not None:
            try:
                at, data = self._ask(self._connection, request)
            except ConnectionError:
                at, data = time.perf_counter(), b""
            if data or at - self.sent > STALE_S:
                return at, data
            self._hang_up()
        try:
            self._connection = self._pool.connect(self._deadline)
        except OSError as error:
            raise RequestError(ErrorKind.CONNECT, _cause(error)) from error
        return self._ask(self._connection, request)

    def _ask(self, connection: Connection, request: bytes) -> tuple[float, bytes]:
        connection.send(request, self._deadline)
        return connection.receive(self._deadline)

    def _read(self, at: float, data: bytes) -> None:
        connection, response = self._connection, self.response
        assert connection is not None
        events = Parser()
        while data:
            self.ended = at
            pieces = response.feed(data)
            if response.head_complete and self.headers_at is None:
                self.headers_at = at
                self._check_head(pieces)
            for piece in pieces:
                for event in events.feed(piece):
                    self.answer.take(event, at)
            if response.complete:
                break
            if self.answer.done:
                at, data = self._linger(connection)
            else:
                at, data = connection.receive(self._deadline)
        self._check_end()
        self._keep_or_close()

    def _linger(self, connection: Connection) -> tuple[float, bytes]:
        try:
            return connection.receive(min(self._deadline, self.ended + LINGER_S))
        except OSError:
            return self.ended, b""

    def _check_head(self, pieces: list[bytes]) -> None:
        if self.response.status != 200:
            detail = self._error_detail(pieces)
            self._keep_or_close()
            raise RequestError(ErrorKind.STATUS, detail)
        kind = self.response.headers.get("content-type", "")
        if not kind.lower().startswith("text/event-stream"):
            raise RequestError(ErrorKind.MALFORMED, f"the answer is {kind[:64] or 'untyped'}, not text/event-stream")

    def _error_detail(self, pieces: list[bytes]) -> str:
        body = b"".join(pieces)
        deadline = min(self._deadline, time.perf_counter() + ERROR_BODY_S)
        assert self._connection is not None
        try:
            while not self.response.complete and len(body) < LARGEST_ERROR_BODY:
                _, data = self._connection.receive(deadline)
                if not data:
                    break
                body += b"".join(self.response.feed(data))
            name = error_name(json.loads(body))
        except (OSError, NotHttpError, ValueError, RecursionError):
            name = "no error object"
        retry = self.response.headers.get("retry-after", "")
        return f"HTTP {self.response.status}: {name}" + (f", retry after {retry} s" if retry.isdigit() else "")

    def _check_end(self) -> None:
        answer, response = self.answer, self.response
        if answer.done or (answer.finished and (response.complete or response.may_end_here)):
            return
        if not response.head_complete:
            raise RequestError(ErrorKind.CUT, "closed before an answer")
        chunks = 0 if answer.first is None else len(answer.gaps) + 1
        raise RequestError(ErrorKind.CUT, f"ended after {chunks} chunks without [DONE] or a finish reason")

    def _keep_or_close(self) -> None:
        if self.response.reusable and self._connection is not None:
            self._pool.give_back(self._connection)
            self._connection = None
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _named(self, error: Exception) -> RequestError:
        if isinstance(error, TimeoutError):
            return RequestError(ErrorKind.TIMEOUT, f"not at its end within {self._timeout_s:g} s")
        if isinstance(error, EventTooLargeError | NotHttpError):
            return RequestError(ErrorKind.MALFORMED, str(error))
        if isinstance(error, OSError):
            return RequestError(ErrorKind.CUT, _cause(error))
        raise error


def _cause(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    return f"{type(error).__name__} {error.strerror or ''}".strip()[:120]
