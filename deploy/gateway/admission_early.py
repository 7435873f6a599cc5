"""Refuses at the door, before its prompt is read, what a replica could not begin in time however small it were."""

from deploy.gateway.admission import Admission
from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.errors import Refused, answer
from deploy.gateway.request import current
from deploy.gateway.routes import GENERATING
from deploy.metrics import REJECTIONS


class AdmissionEarly:
    """ASGI middleware: answers 429 to requests that generate, while not even the smallest one could start in time.

    It counts nothing. What it lets pass is checked again with its exact demand when the engine is to be given it.
    """

    def __init__(self, app: App, admission: Admission) -> None:
        self._app, self._admission = app, admission

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        record = current()
        if scope["type"] == "http" and scope["method"] == "POST" and record is not None and record.route in GENERATING:
            try:
                self._admission.check(record.priority)
            except Refused as refused:
                REJECTIONS.labels(key=record.key_name, reason="admission").inc()
                await answer(refused.error, scope, send)
                return
        await self._app(scope, receive, send)
