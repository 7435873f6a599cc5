"""Bounds the time that one request may take.

vLLM's app ends a request when its client goes away, and then frees what the engine holds for it; a task that is
cancelled from outside does not always do so. So the app is told that the client went away, and what it still sends is
replaced by an error: an answer where none has begun, otherwise an event of the stream.
"""

import asyncio

from deploy.gateway.asgi import App, Message, Receive, Scope, Send, path_of
from deploy.gateway.errors import INVALID_REQUEST, SERVER, ApiError, answer
from deploy.gateway.limits import count_refusal
from deploy.gateway.request import current

GRACE_S = 1.0
"""Time in which an app that was told so ends by itself; then its task is cancelled."""

NO_RETRY = (b"x-should-retry", b"false")
"""The clients of OpenAI and Anthropic heed it (``_should_retry`` in ``_base_client.py`` of both). They would send a
request that got 504 twice more, each as long as the first."""

_EVENT_STREAM = b"text/event-stream"


class TimeLimit:
    """ASGI middleware: answers 504 after ``seconds``, or 408 when the client had not sent its whole request by then."""

    def __init__(self, app: App, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request within its time."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        loop = asyncio.get_running_loop()
        request = _Timed(receive, send, loop.time() + self._seconds)
        # Looking at the clock for every chunk of every stream would cost more than this.
        timer = loop.call_at(request.deadline, request.expire)
        try:
            async with asyncio.timeout_at(request.deadline + GRACE_S):
                await self._app(scope, request.receive, request.send)
        except Exception:
            # An app may fail on a client that goes away.
            if not request.late:
                raise
        finally:
            timer.cancel()
        if request.late and not request.complete:
            record = current()
            count_refusal(record)
            if record is not None and record.status:
                record.fail()
            await request.end(scope, self._seconds)


class _Timed:
    """One request, with what has passed in each direction. ``late``: its time is up."""

    def __init__(self, receive: Receive, send: Send, deadline: float) -> None:
        self._receive, self._send, self.deadline = receive, send, deadline
        self._received = self._started = self._is_event_stream = self.complete = self.late = False

    def expire(self) -> None:
        """The time is up."""
        self.late = True

    async def receive(self) -> Message:
        """What the app calls as ``receive``."""
        try:
            async with asyncio.timeout_at(self.deadline) as limit:
                message = await self._receive()
        except TimeoutError:
            if not limit.expired():
                raise
            self.expire()
            return {"type": "http.disconnect"}
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._received = True
        return message

    async def send(self, message: Message) -> None:
        """What the app calls as ``send``."""
        if self.late:
            return
        if message["type"] == "http.response.start":
            self._started = True
            self._is_event_stream = any(
                name == b"content-type" and value.startswith(_EVENT_STREAM) for name, value in message["headers"]
            )
        elif not message.get("more_body", False):
            self.complete = True
        await self._send(message)

    async def end(self, scope: Scope, seconds: float) -> None:
        """Say that the time is up. An answer that has begun and is no event stream stays broken off."""
        error = _error(seconds, received=self._received)
        if not self._started:
            await answer(error, scope, self._send, (NO_RETRY,) if self._received else None)
        elif self._is_event_stream:
            await self._send({"type": "http.response.body", "body": error.event(path_of(scope))})


def _error(seconds: float, *, received: bool) -> ApiError:
    if not received:
        return ApiError(408, INVALID_REQUEST, "timeout", f"The request did not arrive within {seconds:g} s.")
    return ApiError(504, SERVER, "timeout", f"The request took longer than the {seconds:g} s that one may take.")
