"""Takes JSON that `curl -d` calls a form.

`curl URL -d '{…}'` sends `application/x-www-form-urlencoded` unless told otherwise, and vLLM would answer 415. No
endpoint of vLLM's takes such a form, so the body can only be meant as JSON.
"""

from deploy.gateway.asgi import App, Receive, Scope, Send

_FORM = b"application/x-www-form-urlencoded"
_JSON = (b"content-type", b"application/json")


class FormIsJson:
    """ASGI middleware: a form's content type is replaced by JSON's; the body passes untouched."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, with its content type corrected."""
        if scope["type"] == "http":
            scope["headers"] = [
                _JSON if name == b"content-type" and value.startswith(_FORM) else (name, value)
                for name, value in scope["headers"]
            ]
        await self._app(scope, receive, send)
