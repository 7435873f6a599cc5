"""Everything that is told of requests, as the settings ask for it."""

import uuid

from deploy.gateway import request_metrics
from deploy.gateway.access_log import AccessLog
from deploy.gateway.afterwards import Afterwards
from deploy.gateway.log_sink import sink_from_environment
from deploy.gateway.observed import Seldom
from deploy.gateway.request import Observer, RequestRecord
from deploy.gateway.usage_log import UsageLog
from deploy.settings import Settings


def check_endpoints(settings: Settings) -> None:
    """Refuse endpoints that nothing could be sent to.

    Raises:
        UsageError: the tracing endpoint is no URL.
    """
    if settings.tracing.otlp_endpoint is not None:
        from deploy.gateway.tracing import check_endpoint

        check_endpoint(settings.tracing)


def observers(settings: Settings, served_model: str) -> tuple[Observer, ...]:
    """The observers of one replica process; starts their threads. ``served_model`` is the name that clients use."""
    # Not Ray's id of the replica: it must be another one for every process that writes usage files.
    instance = uuid.uuid4().hex
    later: list[Observer] = []
    if settings.usage.directory is not None:
        later.append(UsageLog(settings.usage.directory, instance, settings.usage.progress_s, served_model))
    if settings.log.access:
        later.append(AccessLog(sink_from_environment(), settings.log, served_model))
    if settings.tracing.otlp_endpoint is not None:
        # Only a replica that traces needs OpenTelemetry.
        from deploy.gateway.tracing import Tracing

        later.append(Tracing(settings.tracing, instance, served_model))
    found = [harmless(request_metrics.observe)]
    if later:
        found.append(Afterwards([harmless(observer) for observer in later]))
    return tuple(found)


def harmless(observer: Observer) -> Observer:
    """``observer``, whose failures are logged once a minute and break no request."""
    seldom = Seldom()

    def observe(record: RequestRecord) -> None:
        try:
            observer(record)
        except Exception as error:
            # Its type only: the message could quote what must not be logged.
            seldom.warn("%s failed on a request (%s)", type(observer).__name__, type(error).__name__)

    return observe
