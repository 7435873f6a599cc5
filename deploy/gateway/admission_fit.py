"""Refuses for good what a replica could not hold even if it were idle: waiting would never help."""

from typing import Any

from deploy.gateway.asgi import App, Receive, Scope, Send
from deploy.gateway.errors import INVALID_REQUEST, ApiError, Refused, answer
from deploy.gateway.limits import TOO_LARGE, count_refusal, number_in, prompts_in
from deploy.gateway.request import current


class AdmissionFit:
    """ASGI middleware: answers 400 when a request asks for more than ``room`` sequences; ``ReadBody`` comes before.

    ``room``: sequences that a replica runs and lets wait together.
    """

    def __init__(self, app: App, room: int) -> None:
        self._app, self._room = app, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        record = current()
        if record is not None and record.body is not None:
            try:
                check_fit(record.route, record.body, self._room)
            except Refused as refused:
                count_refusal(record)
                await answer(refused.error, scope, send)
                return
        await self._app(scope, receive, send)


def check_fit(route: str, body: dict[str, Any], room: int) -> None:
    """Let pass a request whose prompts and completions of each make no more than ``room`` sequences.

    Raises:
        Refused: 400, with the field to mend as ``param``.
    """
    n = max(1, number_in(body.get("n")))
    prompts = max(1, prompts_in(body)) if route == "/v1/completions" else 1
    if n * prompts <= room:
        return
    asked = " of each of ".join(
        f"{count} {what}" for count, what in ((n, "completions"), (prompts, "prompts")) if count > 1
    )
    param, remedy = ("prompt", "send fewer prompts in one request") if n <= room else ("n", "ask for fewer")
    message = f"The request asks for {asked}, and this server holds at most {room} at once: {remedy}."
    raise Refused(ApiError(400, INVALID_REQUEST, TOO_LARGE, message, param))
