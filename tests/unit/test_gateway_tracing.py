"""Prevents: spans that no collector understands, a caller's trace that is cut, a collector that disturbs requests."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from deploy.errors import UsageError
from deploy.gateway import tracing
from deploy.gateway.tracing import Tracing, check_endpoint
from deploy.settings import TracingSettings
from tests.unit.records import RECEIVED_AT, arrived, end, send_marked_requests, served
from tests.unit.stub_collector import StubCollector, attributes_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, NOT_SAMPLED = f"00-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}-00"
SECOND = 1_000_000_000
BEGIN = round(RECEIVED_AT.timestamp() * 1000) * 1_000_000


@pytest.fixture
def collector() -> Iterator[StubCollector]:
    stub = StubCollector()
    yield stub
    stub.close()


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "SEND_TIMEOUT_S", 60.0)


@pytest.fixture
def traced(collector: StubCollector) -> Iterator[Callable[..., list[Span]]]:
    """The spans that the collector has when the given requests have ended."""
    made: list[Tracing] = []

    def spans(*records: Any, ratio: float = 1.0) -> list[Span]:
        made.append(Tracing(TracingSettings(otlp_endpoint=collector.url, sample_ratio=ratio), "one", "demo"))
        for record in records:
            ended, record.ended = record.ended, None
            made[-1](record)
            record.ended = ended
            made[-1](record)
        made[-1].close()
        return collector.spans

    yield spans
    for tracer in made:
        tracer.close()


Traced = Callable[..., list[Span]]


def server_span(spans: list[Span]) -> Span:
    (span,) = [span for span in spans if span.kind == Span.SPAN_KIND_SERVER]
    return span


def test_a_request_is_one_server_span_with_its_stages_below_it(traced: Traced) -> None:
    spans = traced(served())
    server = server_span(spans)
    assert (server.name, server.parent_span_id) == ("POST /v1/chat/completions", b"")
    assert (server.start_time_unix_nano, server.end_time_unix_nano) == (BEGIN, BEGIN + 2 * SECOND)
    stages = {
        span.name: (span.start_time_unix_nano - BEGIN, span.end_time_unix_nano - BEGIN)
        for span in spans
        if (span.trace_id, span.parent_span_id) == (server.trace_id, server.span_id)
    }
    expected = {"gateway": (0, 10), "queue": (10, 30), "prefill": (30, 100), "decode": (100, 2000)}
    assert {name: tuple(round(time / 1e6, 2) for time in times) for name, times in stages.items()} == expected
    assert len(spans) == 5


def test_the_attributes_follow_the_conventions(traced: Traced, collector: StubCollector) -> None:
    span = server_span(traced(served()))
    assert attributes_of(span.attributes) == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "http.response.header.x-request-id": ["r-1"],
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "demo",
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 64,
        "mistral_serve.key": "team",
        "mistral_serve.hung_up": False,
    }
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert collector.resource["service.name"] == "mistral-serve"
    assert collector.resource["service.instance.id"] == "one"
    assert {name.partition(".")[0] for name in collector.resource} == {"service", "telemetry"}


def test_a_route_that_generates_nothing_has_no_tokens(traced: Traced) -> None:
    span = server_span(traced(end(arrived(route="/v1/models", method="GET", body=None))))
    assert [name for name in attributes_of(span.attributes) if name.startswith("gen_ai.")] == []


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"status": 429}, None),
        ({"status": 503}, "503"),
        ({"status": 200, "complete": False}, "incomplete"),
        ({"status": 0, "complete": False, "hung_up": True}, None),
    ],
)
def test_a_server_s_failure_is_an_error_and_a_client_s_is_not(
    traced: Traced, fields: dict[str, Any], error: str | None
) -> None:
    span = server_span(traced(end(arrived(), **fields)))
    attributes = attributes_of(span.attributes)
    assert attributes.get("error.type") == error
    assert (span.status.code == Status.STATUS_CODE_ERROR) == (error is not None)
    assert attributes.get("http.response.status_code", 0) == fields["status"]


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_a_caller_s_sampled_trace_goes_on(traced: Traced, ratio: float) -> None:
    span = server_span(traced(served(traceparent=SAMPLED), ratio=ratio))
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)


def test_a_caller_s_unsampled_trace_is_left_out(traced: Traced) -> None:
    assert traced(served(traceparent=NOT_SAMPLED)) == []


@pytest.mark.parametrize(
    "traceparent",
    [None, "", "nonsense", SAMPLED[:-1], SAMPLED.upper(), f"00-{'0' * 32}-{PARENT}-01", SAMPLED + "x" * 1000, "\xff\n"],
)
def test_a_malformed_traceparent_begins_a_new_trace_and_is_not_logged(
    traced: Traced, traceparent: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    span = server_span(traced(served(traceparent=traceparent)))
    assert span.trace_id.hex() != TRACE
    assert span.parent_span_id == b""
    assert caplog.records == []


def test_without_a_caller_s_trace_the_ratio_decides(traced: Traced) -> None:
    assert traced(*[served() for _ in range(50)], ratio=0.0) == []
    spans = traced(*[end(arrived()) for _ in range(400)], ratio=0.5)
    # 400 fair coins: outside of these bounds once in 10^22 runs.
    assert 100 < len(spans) < 300


def test_nothing_private_is_sent(collector: StubCollector, tmp_path: Path) -> None:
    tracer = Tracing(TracingSettings(otlp_endpoint=collector.url), "one", "demo")
    private = send_marked_requests(tracer, tmp_path)
    tracer.close()
    assert len([span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]) == 4
    assert [word for word in private if word.encode() in collector.content] == []


def test_a_collector_that_refuses_disturbs_nothing_and_is_told_of_once(
    collector: StubCollector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    collector.status = 400
    tracer = Tracing(TracingSettings(otlp_endpoint=collector.url), "one", "demo")
    # Several batches, each of which fails.
    for _ in range(3 * tracing.BATCH):
        tracer(end(arrived()))
    tracer.close()
    assert [record.getMessage() for record in caplog.records] == [
        "spans are lost: the endpoint in tracing.otlp_endpoint does not take them"
    ]


def test_a_collector_that_is_not_there_disturbs_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "SEND_TIMEOUT_S", 0.1)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1/traces"
        tracer = Tracing(TracingSettings(otlp_endpoint=url), "one", "demo")
        tracer(served())
        tracer.close()
    assert len(caplog.records) == 1


def test_spans_that_wait_for_a_slow_collector_are_bounded(
    collector: StubCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"MOST_WAITING": 64, "BATCH": 16}.items():
        monkeypatch.setattr(tracing, name, value)
    collector.open.clear()
    tracer = Tracing(TracingSettings(otlp_endpoint=collector.url), "one", "demo")
    for _ in range(tracing.BATCH):
        tracer(end(arrived()))
    collector.asked.wait()
    for _ in range(2 * tracing.MOST_WAITING):
        tracer(end(arrived()))
    collector.open.set()
    tracer.close()
    assert tracing.MOST_WAITING <= len(collector.spans) <= tracing.MOST_WAITING + tracing.BATCH


def test_the_thread_of_a_closed_observer_is_gone(collector: StubCollector) -> None:
    before = sdk_threads()
    tracer = Tracing(TracingSettings(otlp_endpoint=collector.url), "one", "demo")
    assert len(sdk_threads() - before) == 1
    tracer.close()
    assert sdk_threads() == before


def sdk_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("Otel")}


@pytest.mark.parametrize(
    "endpoint", ["collector:4318", "grpc://collector:4317", "http://", "http://h:99999", "http://[::1"]
)
def test_an_endpoint_that_is_no_http_url_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match=r"tracing\.otlp_endpoint is '.*http://collector:4318/v1/traces"):
        check_endpoint(TracingSettings(otlp_endpoint=endpoint))


@pytest.mark.parametrize("endpoint", [None, "http://collector:4318/v1/traces", "https://[::1]/v1/traces"])
def test_an_http_url_or_none_is_accepted(endpoint: str | None) -> None:
    check_endpoint(TracingSettings(otlp_endpoint=endpoint))
