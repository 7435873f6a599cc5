"""Holds an answer back until it was judged: a whole one at once, a stream piece by piece.

A piece of a stream is judged together with what came right before it, so that nothing hides across a boundary. While a
piece is judged, the engine goes on and its output waits.
"""

import asyncio
import json
from contextlib import suppress

from deploy.gateway.asgi import App, Message, Receive, Scope, Send, header
from deploy.gateway.errors import Refused, answer
from deploy.gateway.moderation import OUTPUT, Judged, Moderation
from deploy.gateway.moderation_answers import choice_texts, withhold
from deploy.gateway.moderation_events import Event, Texts, format_of, split

GRACE_S = 1.0
"""Time in which an app that was told that its client went away ends by itself; then it is cancelled."""

FLAGGED = b"x-moderation"
"""Header of an answer: which of prompt and answer (``input``, ``output``) was judged harmful when it began."""

FLAGGED_LATER = b": x-moderation: output\n\n"
"""A comment in a stream of which a later piece was judged harmful; clients skip comments."""

DELAY = b"x-moderation-delay-ms"
"""Header of a moderated answer: how long it had waited for judgements when it began, in milliseconds."""


async def serve_moderated(
    app: App, moderation: Moderation, judged: Judged, scope: Scope, receive: Receive, send: Send
) -> None:
    """Serve a request whose prompt has been judged, and judge its answer.

    When the answer is cut short, the app is told that its client went away: that is how vLLM frees what the engine
    holds for it.
    """
    output = _Output(moderation, judged, scope, receive, send)
    try:
        async with output.grace:
            await app(scope, output.receive, output.send)
    except Exception:
        # An app may fail on a client that goes away, or have to be cancelled.
        if not output.cut:
            raise


class _Output:
    """The answer of one request.

    ``begun``: the client has got the headers. ``cut``: it ended before what the app had to say did.
    """

    def __init__(self, moderation: Moderation, judged: Judged, scope: Scope, receive: Receive, send: Send) -> None:
        self._moderation, self._judged = moderation, judged
        self._scope, self._receive, self._send = scope, receive, send
        self.grace, self._waiting = asyncio.timeout(None), asyncio.timeout(None)
        self._start: Message | None = None
        self.begun = self.cut = False
        self._body = bytearray()
        self._take = send

    async def receive(self) -> Message:
        """What the app calls as ``receive``."""
        if self.cut:
            return {"type": "http.disconnect"}
        self._waiting = asyncio.timeout(None)
        try:
            async with self._waiting:
                return await self._receive()
        except TimeoutError:
            if not self._waiting.expired():
                raise
            return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """What the app calls as ``send``."""
        if self.cut:
            return
        if message["type"] != "http.response.start":
            await self._take(message)
            return
        self._start = message
        kind = header(message, b"content-type") or b""
        if not self._moderation.judges_output or message["status"] != 200:
            await self._begin()
        elif kind.startswith(b"text/event-stream"):
            self._take = _Pieces(self, self._moderation, self._judged).take
        else:
            self._take = self._whole

    async def write(self, content: bytes, *, more: bool) -> None:
        """Send a part of the body, the headers first."""
        await self._begin()
        await self._send({"type": "http.response.body", "body": content, "more_body": more})

    async def refuse(self, refused: Refused) -> None:
        """Answer with an error instead; only while nothing was sent."""
        await answer(refused.error, self._scope, self._send)
        self._end()

    async def finish(self, content: bytes) -> None:
        """Send the last bytes and stop the app."""
        await self.write(content, more=False)
        self._end()

    def _end(self) -> None:
        """Stop the app; only when everything was sent, because that happens inside the app's own task."""
        self.cut = True
        now = asyncio.get_running_loop().time()
        self.grace.reschedule(now + GRACE_S)
        with suppress(RuntimeError):
            # Raised where the app is not waiting for a message.
            self._waiting.reschedule(now)

    async def _begin(self, length: int | None = None) -> None:
        if self.begun or self._start is None:
            return
        self.begun = True
        headers = list(self._start.get("headers", ()))
        if length is not None:
            headers = [pair for pair in headers if pair[0] != b"content-length"]
            headers.append((b"content-length", str(length).encode()))
        if self._judged.flagged and self._moderation.tells:
            headers.append((FLAGGED, ", ".join(self._judged.flagged).encode()))
        headers.append((DELAY, str(round(self._judged.waited_s * 1000)).encode()))
        await self._send({**self._start, "headers": headers})

    async def _whole(self, message: Message) -> None:
        self._body += message.get("body", b"")
        if message.get("more_body", False):
            return
        body, route = bytes(self._body), self._judged.record.route
        content = json.loads(body)
        try:
            verdicts = await self._moderation.verdicts(OUTPUT, self._judged, choice_texts(route, content))
        except Refused as refused:
            await self.refuse(refused)
            return
        if self._moderation.blocks and any(verdicts):
            withhold(route, content, verdicts)
            body = json.dumps(content).encode()
        await self._begin(len(body))
        await self.write(body, more=False)


class _Pieces:
    """A stream of server-sent events, of which those with text wait until there is a piece to judge."""

    def __init__(self, output: _Output, moderation: Moderation, judged: Judged) -> None:
        self._output, self._moderation, self._judged = output, moderation, judged
        self._format = format_of(judged.record.route)
        self._rest = b""
        self._held: list[Event] = []
        self._new: Texts = {}
        self._before: Texts = {}

    async def take(self, message: Message) -> None:
        """What the app sends of the body."""
        last = not message.get("more_body", False)
        events, self._rest = split(self._rest + message.get("body", b""), last=last)
        for content in events:
            await self._hold(Event(content))
            if self._output.cut:
                return
        if last and await self._judge():
            await self._release(last=True)

    async def _hold(self, event: Event) -> None:
        event.texts = self._format.texts(event)
        self._held.append(event)
        for name, text in event.texts.items():
            self._new[name] = self._new.get(name, "") + text
        if sum(map(len, self._new.values())) >= self._moderation.chunk_chars:
            if await self._judge():
                await self._release()
        elif not self._new and self._output.begun:
            await self._release()

    async def _judge(self) -> bool:
        """Judge what is held; false when the answer ended with that."""
        new, self._new = self._new, {}
        known = OUTPUT in self._judged.flagged
        texts = {name: self._before.get(name, "") + text for name, text in new.items()}
        try:
            verdicts = await self._moderation.verdicts(OUTPUT, self._judged, list(texts.values()))
        except Refused as refused:
            if self._output.begun:
                record = self._judged.record
                record.fail()
                await self._output.finish(refused.error.event(record.route))
            else:
                await self._output.refuse(refused)
            return False
        self._before |= {name: text[-self._moderation.chunk_chars :] for name, text in texts.items()}
        if any(verdicts) and self._moderation.blocks:
            await self._block()
            return False
        if any(verdicts) and self._moderation.tells and self._output.begun and not known:
            self._held.insert(0, Event(FLAGGED_LATER))
        return True

    async def _block(self) -> None:
        """End the stream before the first held event with text."""
        passed = b""
        for event in self._held:
            if event.texts:
                break
            self._format.passed(event)
            passed += event.content
        await self._output.finish(passed + self._format.ending(self._judged.record))

    async def _release(self, *, last: bool = False) -> None:
        for event in self._held:
            self._format.passed(event)
        content = b"".join(event.content for event in self._held)
        self._held = []
        if content or last:
            await self._output.write(content, more=not last)
