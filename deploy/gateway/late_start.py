"""Holds back the beginning of a streamed ``/v1/responses`` until the engine has been asked.

vLLM sends the status and two events before it asks the engine (``entrypoints/openai/responses/serving.py``,
``responses_stream_generator``), so that whatever refuses the request there would come too late for a status. The other
routes ask first.
"""

from deploy.gateway.asgi import App, Message, Receive, Scope, Send
from deploy.gateway.errors import Refused
from deploy.gateway.request import RequestRecord, current


class LateStart:
    """ASGI middleware: passes an answer on from the first message after the engine was asked, or at its end.

    Raises:
        Refused: the engine's wrapper refused the request, and the app ended its answer as if nothing had happened.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        record = current()
        if record is not None and record.route == "/v1/responses":
            send = _late(send, record)
        await self._app(scope, receive, send)


def _late(send: Send, record: RequestRecord) -> Send:
    held: list[Message] = []

    async def late(message: Message) -> None:
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if not record.engine_asked and not is_last:
            held.append(message)
            return
        if held and record.refused is not None:
            raise Refused(record.refused)
        for earlier in held:
            await send(earlier)
        held.clear()
        await send(message)

    return late
