"""The middlewares in their order, as the settings ask for them."""

from collections.abc import Callable

from deploy.errors import UsageError
from deploy.gateway import at_end
from deploy.gateway.admission import Admission
from deploy.gateway.admission_early import AdmissionEarly
from deploy.gateway.admission_fit import AdmissionFit
from deploy.gateway.asgi import App
from deploy.gateway.authentication import KeysRequired
from deploy.gateway.body import ReadBody
from deploy.gateway.content_type import FormIsJson
from deploy.gateway.error_bodies import OpenAIErrors
from deploy.gateway.guard import Guard
from deploy.gateway.key_file import read
from deploy.gateway.key_store import KeyStore
from deploy.gateway.late_start import LateStart
from deploy.gateway.limits import BodyLimits, HeaderLimit
from deploy.gateway.moderation import Judge, endpoint_key
from deploy.gateway.observers import check_endpoints, observers
from deploy.gateway.per_key import RequestsPerKey
from deploy.gateway.quota_book import Book, checked_address, redis_password
from deploy.gateway.quotas import Quotas
from deploy.gateway.request_scope import RequestScope
from deploy.gateway.time_limit import TimeLimit
from deploy.gateway.usage_files import check_directory
from deploy.settings import Settings


def check(settings: Settings) -> None:
    """Refuse settings with which the gateway cannot work, without looking at any file.

    Raises:
        UsageError: with the remedy.
    """
    check_endpoints(settings)
    if not settings.keys_required:
        return
    if settings.quotas.enabled and settings.quotas.storage == "redis":
        checked_address(settings.quotas)
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


def check_files(settings: Settings) -> None:
    """Refuse files and directories of this machine that the gateway could not use; makes the usage directory.

    Raises:
        UsageError: with the remedy.
    """
    if settings.usage.directory is not None:
        check_directory(settings.usage.directory)
    endpoint_key(settings.guard)
    if not settings.keys_required:
        return
    if settings.gateway.keys_file is not None:
        read(settings.gateway.keys_file)
    if settings.quotas.enabled and settings.quotas.storage == "redis":
        redis_password(settings.quotas)


class Gateway:
    """What stands in front of vLLM's app in one replica. ``book`` has the counts of quotas; ``None`` counts nothing.

    Raises:
        UsageError: a setting, or a file that one names, cannot be used.
    """

    def __init__(self, settings: Settings, book: Book | None = None) -> None:
        check(settings)
        check_files(settings)
        self._settings, self._book = settings, book
        path = settings.gateway.keys_file
        self._keys = KeyStore(path) if settings.keys_required and path is not None else None
        self._judge = _judge(settings)

    def around(
        self,
        app: App,
        served_model: str,
        admission: Admission | None = None,
        engine_is_dead: Callable[[], bool] = lambda: False,
    ) -> App:
        """``app`` behind the gateway; starts the threads of the observers.

        What costs least comes first: a request that is refused takes nothing further.

        Args:
            app: vLLM's.
            served_model: the name that clients use.
            admission: the ledger of the engine behind ``app``; ``None`` accepts everything.
            engine_is_dead: whether that engine will never answer again.
        """
        settings, limits = self._settings, self._settings.limits
        app = Guard(OpenAIErrors(LateStart(FormIsJson(app)), engine_is_dead), settings.guard, self._judge)
        # Without admission too: vLLM's own queue, of the same length, would answer 503 for ever.
        app = AdmissionFit(app, settings.vllm.max_num_seqs + settings.vllm.max_num_queued_reqs)
        if limits.enabled:
            app = BodyLimits(app, limits)
        app = ReadBody(app, limits.body_bytes if limits.enabled else None)
        if self._book is not None:
            app = Quotas(app, self._book, settings.quotas)
        if admission is not None:
            app = AdmissionEarly(app, admission)
        if limits.enabled:
            app = RequestsPerKey(app, limits.requests_per_key)
        if self._keys is not None:
            app = KeysRequired(app, self._keys, open_metrics=settings.gateway.open_metrics)
        if limits.enabled:
            app = TimeLimit(HeaderLimit(app, limits.header_bytes), limits.request_s)
        return RequestScope(app, (at_end.observe, *observers(settings, served_model)))


def _judge(settings: Settings) -> Judge | None:
    if settings.guard.moderation == "off":
        return None
    # Only a replica that moderates needs an HTTP client.
    from deploy.gateway.moderation_client import Endpoint

    return Endpoint(settings.guard)
