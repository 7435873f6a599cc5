"""OpenTelemetry spans of every request, sent by OTLP over HTTP.

The names follow OpenTelemetry's conventions for HTTP servers
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/) and for generative AI
(https://github.com/open-telemetry/semantic-conventions-genai). All spans of a request are made when it has ended, from
the times in its record, and only for requests that are sampled.
"""

import atexit
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.semconv.attributes.error_attributes import ERROR_TYPE
from opentelemetry.semconv.attributes.http_attributes import (
    HTTP_REQUEST_METHOD,
    HTTP_RESPONSE_HEADER_TEMPLATE,
    HTTP_RESPONSE_STATUS_CODE,
    HTTP_ROUTE,
)
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from deploy.errors import UsageError
from deploy.gateway.observed import Seldom, broken, method_of, model_of, stages
from deploy.gateway.request import RequestRecord
from deploy.gateway.routes import GENERATING
from deploy.settings import TracingSettings

SERVICE_NAME = "mistral-serve"
MOST_WAITING = 4096
"""Spans that wait to be sent; the oldest of more are dropped."""

BATCH = 512
SEND_PERIOD_S = 2.0
SEND_TIMEOUT_S = 5.0
"""Longest time for one batch, with the SDK's own retries."""

LONGEST_TRACEPARENT = 512
"""Characters; the propagator logs a warning for every longer one, and a client could send many."""

_OPERATIONS = dict.fromkeys(GENERATING, "chat") | {"/v1/completions": "text_completion"}
_REQUEST_ID = f"{HTTP_RESPONSE_HEADER_TEMPLATE}.x-request-id"


def check_endpoint(settings: TracingSettings) -> None:
    """Refuse an endpoint that nothing can be sent to.

    Raises:
        UsageError: it is no HTTP URL.
    """
    endpoint = settings.otlp_endpoint
    if endpoint is None:
        return
    try:
        parts = urlsplit(endpoint)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise UsageError(
            f"tracing.otlp_endpoint is {endpoint!r}: give the URL of an OTLP/HTTP endpoint, "
            "for example http://collector:4318/v1/traces"
        )


class Tracing:
    """An observer that makes the spans; a thread of the SDK's sends them.

    A request whose ``traceparent`` says that its trace is sampled is traced, one that says that it is not, is not; of
    the others ``settings.sample_ratio`` are. ``instance`` tells replicas apart.
    """

    def __init__(self, settings: TracingSettings, instance: str, served_model: str) -> None:
        assert settings.otlp_endpoint is not None
        self._served_model = served_model
        self._propagator = TraceContextTextMapPropagator()
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.sample_ratio)),
            resource=Resource.create({"service.name": SERVICE_NAME, "service.instance.id": instance}),
            shutdown_on_exit=False,
        )
        self._exporter = _Exporter(settings.otlp_endpoint)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                self._exporter,
                max_queue_size=MOST_WAITING,
                max_export_batch_size=BATCH,
                schedule_delay_millis=SEND_PERIOD_S * 1000,
            )
        )
        self._tracer = self._provider.get_tracer("deploy.gateway")
        atexit.register(self.close)

    def __call__(self, record: RequestRecord) -> None:
        """Make the spans of an ended request."""
        if record.ended is None:
            return
        span = self._tracer.start_span(
            f"{method_of(record)} {record.route}",
            context=self._parent(record),
            kind=SpanKind.SERVER,
            start_time=_nanoseconds(record, record.received),
        )
        if not span.is_recording():
            return
        span.set_attributes(_attributes(record, self._served_model))
        if record.status >= 500 or broken(record):
            span.set_status(StatusCode.ERROR)
            span.set_attribute(ERROR_TYPE, str(record.status) if record.status >= 500 else "incomplete")
        inside = set_span_in_context(span, Context())
        for stage in stages(record):
            part = self._tracer.start_span(stage.name, context=inside, start_time=_nanoseconds(record, stage.begin))
            part.end(_nanoseconds(record, stage.end))
        span.end(_nanoseconds(record, record.ended))

    def close(self) -> None:
        """Send what waits, unless the endpoint does not take it, and stop."""
        atexit.unregister(self.close)
        self._exporter.close()
        self._provider.shutdown()

    def _parent(self, record: RequestRecord) -> Context:
        given = record.traceparent or ""
        carrier = {"traceparent": given} if len(given) <= LONGEST_TRACEPARENT else {}
        # Its own context: whatever else this process traces is no parent of a request.
        return self._propagator.extract(carrier, Context())


def _nanoseconds(record: RequestRecord, moment: float) -> int:
    """A reading of ``time.monotonic`` as nanoseconds since 1970."""
    return round((record.received_at.timestamp() + moment - record.received) * 1e6) * 1000


def _attributes(record: RequestRecord, served_model: str) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {
        HTTP_REQUEST_METHOD: method_of(record),
        HTTP_ROUTE: record.route,
        _REQUEST_ID: [record.id],
        "mistral_serve.key": record.key_name,
        "mistral_serve.hung_up": record.hung_up,
    }
    if record.status:
        attributes[HTTP_RESPONSE_STATUS_CODE] = record.status
    if record.route in GENERATING:
        attributes |= {
            "gen_ai.operation.name": _OPERATIONS[record.route],
            "gen_ai.request.model": model_of(record, served_model),
            "gen_ai.usage.input_tokens": record.prompt_tokens,
            "gen_ai.usage.output_tokens": record.completion_tokens,
        }
    return attributes


class _Exporter(SpanExporter):
    """The SDK's exporter; in place of a warning for every attempt that fails it says so once a minute."""

    def __init__(self, endpoint: str) -> None:
        self._inner = trace_exporter.OTLPSpanExporter(endpoint=endpoint, timeout=SEND_TIMEOUT_S)
        self._failing = self._closing = False
        self._seldom = Seldom()
        logging.getLogger(trace_exporter.__name__).setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._inner.export(spans)
        self._failing = result is not SpanExportResult.SUCCESS
        if self._failing:
            self._seldom.warn("spans are lost: the endpoint in tracing.otlp_endpoint does not take them")
            if self._closing:
                self.shutdown()
        return result

    def close(self) -> None:
        """Send what is left, but give up at the first failure: each could take ``SEND_TIMEOUT_S``."""
        self._closing = True
        if self._failing:
            self.shutdown()

    def shutdown(self) -> None:
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # the SDK's own
