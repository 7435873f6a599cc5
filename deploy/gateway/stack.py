"""The middlewares in their order, as the settings ask for them."""

from deploy.errors import UsageError
from deploy.gateway.asgi import App
from deploy.gateway.authentication import KeysRequired
from deploy.gateway.body import ReadBody
from deploy.gateway.content_type import FormIsJson
from deploy.gateway.error_bodies import OpenAIErrors
from deploy.gateway.key_store import KeyStore
from deploy.gateway.request_scope import RequestScope
from deploy.settings import Settings


def check(settings: Settings) -> None:
    """Refuse settings that need keys and have none, without looking at the key file.

    Raises:
        UsageError: with the remedy.
    """
    if not settings.keys_required:
        return
    off = "start with --gateway.keys off"
    if settings.gateway.keys_file is None:
        raise UsageError(
            f"API keys are required (server.host is {settings.server.host}, gateway.keys is {settings.gateway.keys}) "
            "but there are none: make one with `python -m deploy.keys new --name NAME --file keys.yaml` and start with "
            f"--gateway.keys-file keys.yaml, or {off}"
        )
    if settings.engine.get("api_key"):
        raise UsageError(
            f"engine argument api_key and the keys in gateway.keys_file exclude each other: leave api_key out, or {off}"
        )
    if settings.rehearse:
        raise UsageError(f"a rehearsal measures over HTTP without an API key: {off}")


class Gateway:
    """What stands in front of vLLM's app in one replica.

    Raises:
        UsageError: keys are required, and there are none or their file cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        check(settings)
        self._settings = settings
        path = settings.gateway.keys_file
        self._keys = KeyStore(path) if settings.keys_required and path is not None else None

    def around(self, app: App) -> App:
        """``app`` behind the gateway. Keys come before the body: what is refused costs nothing further."""
        settings = self._settings
        app = ReadBody(FormIsJson(app), settings.limits.body_bytes)
        if self._keys is not None:
            app = KeysRequired(app, self._keys, open_metrics=settings.gateway.open_metrics)
        return RequestScope(OpenAIErrors(app))
