"""A server process with the gateway around an engine that costs nothing: what is left is the gateway and the server.

``python -m tests.bench.fake_engine PORT FLAG…`` serves completions of ``TOKENS`` tokens, streamed or whole, under
uvicorn, as a replica does. The flags are serve.py's.
"""

import json
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

from deploy.gateway.admission import Admission
from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.demand import Capacity
from deploy.gateway.stack import Gateway
from deploy.loading import load
from deploy.metered_engine import meter
from deploy.quota_actor import book_for
from deploy.settings import Settings

TOKENS = 16
CAPACITY = Capacity(2**30, lambda tokens: tokens * 23_040, 2048, 128, 512)
PROMPT = {"prompt_token_ids": list(range(100))}
_STATS = SimpleNamespace(queued_ts=1.0, scheduled_ts=1.0, first_token_ts=1.0)


class FakeEngine:
    """Has what ``meter`` uses of vLLM's ``AsyncLLM``; makes its tokens at once."""

    def __init__(self) -> None:
        self.request_states: dict[str, Any] = {}
        self.output_processor = self

    def add_request(self, request: Any, *_: Any) -> None:
        """Begin a sequence."""
        made: list[int] = []
        detokenizer = SimpleNamespace(num_output_tokens=lambda: len(made))
        state = SimpleNamespace(is_prefilling=False, detokenizer=detokenizer, made=made)
        self.request_states[request.request_id] = state

    async def generate(self, prompt: Any, params: Any, request_id: str, **_: Any) -> AsyncIterator[Any]:
        """The outputs, one for each token."""
        self.output_processor.add_request(SimpleNamespace(request_id=request_id))
        made = self.request_states.pop(request_id).made
        for token in range(params.max_tokens):
            made.append(token)
            yield SimpleNamespace(finished=token == params.max_tokens - 1, metrics=_STATS)


class FakeApp:
    """As vLLM's app: reads the body, asks the engine, answers whole or as a stream."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one completion; any GET is answered at once."""
        if scope["type"] != "http":
            return
        body = b""
        while scope["method"] == "POST":
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        stream = bool(body) and json.loads(body).get("stream", False)
        kind = b"text/event-stream" if stream else b"application/json"
        if body:
            self._count += 1
            params = SimpleNamespace(max_tokens=TOKENS, n=1, top_k=0)
            outputs = self._engine.generate(PROMPT, params, str(self._count))
            if not stream:
                _ = [output async for output in outputs]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
        if stream:
            async for _ in outputs:
                await send({"type": "http.response.body", "body": b'data: {"token": 1}\n\n', "more_body": True})
        await send({"type": "http.response.body", "body": b"" if stream else b"{}"})


def app_for(settings: Settings) -> App:
    """The gateway around that app, as ``deploy.replica`` puts it together; the counts of quotas are in this process."""
    engine = FakeEngine()
    admission = None
    if settings.admission.enabled:
        admission = Admission(CAPACITY, settings.admission)
    meter(engine, admission, settings.limits if settings.limits.enabled else None)
    return Gateway(settings, book_for(settings)).around(FakeApp(engine), "demo", admission)


def main(argv: list[str]) -> None:
    """Serve until killed."""
    import uvicorn

    app = app_for(load(argv=argv[1:]))
    uvicorn.run(app, host="127.0.0.1", port=int(argv[0]), log_level="error", access_log=False)


if __name__ == "__main__":
    main(sys.argv[1:])
