"""Prevents: a measurement that a server can break: a request that raises, hangs, or is recorded as what it was not."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loadtest._client import Client
from loadtest._connection import Connection, Pool
from loadtest._mock_process import mock_server, read_truth
from loadtest._request import Api, ErrorKind, Record, RequestSpec
from tests.unit.byte_server import EVENT_STREAM, byte_server

SECRET = "kingfisher"
WORDS = " wind from the sea über 風 wind from"
BOTH = pytest.mark.parametrize("api", ["chat", "completions"])


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest._exchange.STALE_S", 60.0)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mock_server("--ttft-s", "0", "--itl-s", "0") as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    client = Client(url, timeout_s=30)
    yield client
    client.close()


def spec_of(api: Api = "chat", max_tokens: int = 8, cancel_after: int | None = None, **mock: Any) -> RequestSpec:
    messages = [{"role": "user", "content": f"say {SECRET} twice"}] if api == "chat" else None
    prompt = None if api == "chat" else f"say {SECRET} twice"
    return RequestSpec(api, "mock", "test", messages, prompt, max_tokens, {"mock": mock}, cancel_after)


def send_to(server_port: int, timeout_s: float = 30) -> Record:
    client = Client(f"http://127.0.0.1:{server_port}", timeout_s=timeout_s)
    record = client.send(spec_of())
    client.close()
    return record


def chunk(content: str, reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": reason}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
WHOLE = chunk("a") + chunk("b", "stop") + DONE


def with_length(body: bytes, head: bytes = EVENT_STREAM) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@BOTH
def test_a_good_answer_is_recorded_whole(client: Client, api: Api) -> None:
    record = client.send(spec_of(api, cached_tokens=2), intended=5.0, worker=3, index=7, keep_text=True)
    assert (record.error, record.detail, record.status) == (None, "", 200)
    assert (record.scenario, record.api, record.worker, record.index, record.intended) == ("test", api, 3, 7, 5.0)
    assert (record.prompt_tokens, record.output_tokens, record.token_source) == (3, 8, "usage")
    assert record.cached_tokens == 2
    assert (record.first_chunk_tokens, [tokens for _, tokens in record.gaps]) == (1, [1] * 7)
    assert record.text == WORDS
    assert record.headers is not None
    assert record.first is not None
    assert record.last is not None
    assert record.sent <= record.headers <= record.first <= record.last <= record.ended
    assert sum(gap for gap, _ in record.gaps) == pytest.approx(record.last - record.first)


def test_the_text_is_kept_only_where_it_is_asked_for(client: Client) -> None:
    assert client.send(spec_of()).text is None


def test_the_role_alone_is_no_first_token(client: Client, url: str) -> None:
    record = client.send(spec_of(ttft_s=1))
    assert record.first is not None
    assert record.headers is not None
    assert record.first >= read_truth(url)[record.request_id]["times"][0]
    assert record.headers < read_truth(url)[record.request_id]["times"][0]


def test_no_chunk_is_seen_before_it_was_sent_nor_joined_to_the_next(client: Client, url: str) -> None:
    record = client.send(spec_of(itl_s=0.02))
    assert record.first is not None
    times = [record.first]
    for gap, _ in record.gaps:
        times.append(times[-1] + gap)
    truth = read_truth(url)[record.request_id]["times"]
    assert len(times) == len(truth)
    assert all(seen >= sent - 1e-6 for seen, sent in zip(times, truth, strict=True))


def test_reasoning_is_content_for_the_clock_but_not_for_the_text(client: Client) -> None:
    record = client.send(spec_of(reasoning_tokens=8), keep_text=True)
    assert (record.error, len(record.gaps), record.text) == (None, 7, "")


@BOTH
def test_the_tokens_of_each_chunk_are_counted_where_the_server_tells_them(client: Client, api: Api) -> None:
    record = client.send(spec_of(api, tokens_per_chunk=3), continuous_usage=True)
    assert (record.output_tokens, record.token_source) == (8, "continuous_usage")
    assert (record.first_chunk_tokens, [tokens for _, tokens in record.gaps]) == (3, [3, 2])
    assert record.counted_tokens == 8


def test_a_total_alone_does_not_tell_what_a_chunk_holds(client: Client) -> None:
    record = client.send(spec_of(tokens_per_chunk=4))
    assert (record.output_tokens, record.counted_tokens, record.token_source) == (8, 2, "usage")


def test_without_usage_the_chunks_are_counted_and_it_is_said(client: Client) -> None:
    record = client.send(spec_of(fault="no_usage"), continuous_usage=True)
    assert (record.error, record.output_tokens, record.token_source) == (None, 8, "chunks")
    assert record.prompt_tokens is None


def test_a_connection_is_used_again_after_a_good_answer(url: str) -> None:
    with byte_server([with_length(WHOLE), with_length(WHOLE)]) as server:
        client = Client(f"http://127.0.0.1:{server.port}/v1/", api_key="k")
        assert [client.send(spec_of()).error for _ in range(2)] == [None, None]
        client.close()
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "status", "detail"),
    [
        ("cut", ErrorKind.CUT, 200, "ended after 3 chunks without [DONE] or a finish reason"),
        ("no_finish", ErrorKind.CUT, 200, "ended after 8 chunks without [DONE] or a finish reason"),
        ("error_event", ErrorKind.SERVER_EVENT, 200, "500 InternalServerError"),
        ("invalid_utf8", ErrorKind.MALFORMED, 200, "is not UTF-8"),
        ("malformed_json", ErrorKind.MALFORMED, 200, "is not JSON"),
        ("wrong_event", ErrorKind.MALFORMED, 200, "has no list of choices"),
        ("huge_line", ErrorKind.MALFORMED, 200, "a line is longer than 1048576 bytes"),
        ("endless", ErrorKind.MALFORMED, 200, "no end after 96 events"),
        ("not_sse", ErrorKind.MALFORMED, 200, "the answer is application/json, not text/event-stream"),
        ("not_http", ErrorKind.MALFORMED, 0, "the answer is not HTTP/1.1"),
        ("429", ErrorKind.STATUS, 429, "HTTP 429: rate_limit_exceeded, retry after 2 s"),
        ("500", ErrorKind.STATUS, 500, "HTTP 500: no error object"),
    ],
)
@BOTH
def test_each_failure_has_its_class(
    client: Client, api: Api, fault: str, kind: ErrorKind, status: int, detail: str
) -> None:
    record = client.send(spec_of(api, fault=fault))
    assert (record.error, record.status) == (kind, status)
    assert detail in record.detail
    assert client.send(spec_of(api)).error is None, "the failure must not spoil the next request"


@pytest.mark.parametrize("fault", ["no_done", "no_terminator", "slow_headers", "close_idle", "fragments"])
@BOTH
def test_what_is_odd_but_complete_is_no_failure(client: Client, api: Api, fault: str) -> None:
    for _ in range(2):
        record = client.send(spec_of(api, fault=fault), keep_text=True)
        assert (record.error, record.output_tokens, record.text) == (None, 8, WORDS)


def test_a_server_that_falls_silent_is_a_timeout_and_what_came_is_kept(url: str) -> None:
    record = Client(url, timeout_s=0.5).send(spec_of(fault="silence"))
    assert (record.error, record.detail) == (ErrorKind.TIMEOUT, "not at its end within 0.5 s")
    assert (record.output_tokens, record.ended - record.sent >= 0.4) == (3, True)


def test_a_stream_that_trickles_for_ever_ends_at_the_deadline(url: str) -> None:
    record = Client(url, timeout_s=0.5).send(spec_of(max_tokens=10**6, fault="endless", itl_s=0.1))
    assert record.error is ErrorKind.TIMEOUT


def test_hanging_up_as_planned_is_seen_by_both_sides(client: Client, url: str) -> None:
    record = client.send(spec_of(max_tokens=10**6, cancel_after=5, itl_s=0.01))
    assert (record.error, record.output_tokens) == (ErrorKind.CANCELLED, 5)
    assert record.detail == "hung up after 5 chunks, as asked"
    while not read_truth(url)[record.request_id]["disconnected"]:
        pass  # pytest's timeout ends it


def test_an_answer_shorter_than_the_planned_hang_up_is_a_good_one(client: Client) -> None:
    assert client.send(spec_of(cancel_after=9)).error is None


def test_an_answer_without_a_token_is_no_failure_and_has_no_first_token(client: Client) -> None:
    record = client.send(spec_of(tokens=0))
    assert (record.error, record.output_tokens, record.first, record.ttft, record.tpot) == (None, 0, None, None, None)


def test_what_the_request_asks_for_is_in_its_body() -> None:
    with byte_server([with_length(WHOLE)]) as server:
        client = Client(f"http://127.0.0.1:{server.port}/base/v1", api_key="k-1")
        spec = RequestSpec("completions", "m", "s", None, [1, 2], 4, {"ignore_eos": True, "stream": False})
        client.send(spec, continuous_usage=True)
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/v1/completions HTTP/1.1\r\n")
    assert b"authorization: Bearer k-1\r\n" in head + b"\r\n"
    assert json.loads(body) == {
        "model": "m",
        "max_tokens": 4,
        "ignore_eos": True,
        "prompt": [1, 2],
        "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }


def test_connecting_is_the_request_s_time_and_not_the_client_s_lag(monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[float] = []

    def connect(pool: Pool, deadline: float) -> Connection:
        began.append(time.perf_counter())
        return real(pool, deadline)

    real = Pool.connect
    monkeypatch.setattr(Pool, "connect", connect)
    # The second request is sent over the kept connection, which closes, and then over a new one.
    with byte_server([with_length(WHOLE), b""], [with_length(WHOLE)]) as server:
        client = Client(f"http://127.0.0.1:{server.port}")
        records = [client.send(spec_of(), intended=time.perf_counter()) for _ in range(2)]
        client.close()
    for record, connecting in zip(records, began, strict=True):
        assert record.error is None
        assert record.intended is not None
        assert record.first is not None
        assert record.lag is not None
        assert record.lag <= connecting - record.intended
        assert record.ttft == record.first - record.sent >= record.first - connecting


def test_nobody_listening_is_a_connect_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    record = send_to(port)
    assert (record.error, record.status) == (ErrorKind.CONNECT, 0)
    assert record.detail == "ConnectionRefusedError Connection refused"


def test_a_name_that_does_not_exist_is_a_connect_error() -> None:
    assert Client("http://nowhere.invalid").send(spec_of()).error is ErrorKind.CONNECT


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (b"", ErrorKind.CUT, "closed before an answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-", ErrorKind.CUT, "closed before an answer"),
        (with_length(WHOLE)[:-1], ErrorKind.CUT, "ended after 2 chunks"),
        (with_length(chunk("a") + b"data: {"), ErrorKind.CUT, "ended after 1 chunks"),
        (EVENT_STREAM + b"transfer-encoding: chunked\r\n\r\nzz\r\n", ErrorKind.MALFORMED, "not HTTP"),
        (EVENT_STREAM + b"x: " + b"y" * (1 << 18), ErrorKind.MALFORMED, "headers longer than"),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", ErrorKind.MALFORMED, "HTTP"),
        (with_length(b"data: 5\n\n"), ErrorKind.MALFORMED, "event 1 is not a JSON object"),
        (with_length(b"data: " + b"[" * 200_000 + b"\n\n"), ErrorKind.MALFORMED, "event 1 is not JSON"),
        (with_length(b'data: {"choices": [5]}\n\n'), ErrorKind.MALFORMED, "a choice in event 1"),
        (with_length(b"data: {}\n\n" + DONE), ErrorKind.MALFORMED, "no list of choices"),
        (with_length(b'event: error\ndata: "kingfisher"\n\n'), ErrorKind.SERVER_EVENT, "no error object"),
        (with_length(b'data: {"object": "error", "type": "Bad", "code": 5}\n\n'), ErrorKind.SERVER_EVENT, "5 Bad"),
        (with_length(WHOLE, b"HTTP/1.1 200 OK\r\n"), ErrorKind.MALFORMED, "untyped"),
        (with_length(b"", b"HTTP/1.1 307 X\r\nlocation: http://x/kingfisher\r\n"), ErrorKind.STATUS, "HTTP 307"),
        (
            with_length(
                b'{"error": {"message": "kingfisher", "type": "a kingfisher", "code": "b"}}', b"HTTP/1.1 400 X\r\n"
            ),
            ErrorKind.STATUS,
            "HTTP 400: b",
        ),
    ],
)
def test_no_answer_however_broken_raises_or_is_taken_for_a_good_one(
    answer: bytes, kind: ErrorKind, detail: str
) -> None:
    with byte_server([answer]) as server:
        record = send_to(server.port)
    assert (record.error, detail in record.detail) == (kind, True), record.detail
    assert SECRET not in record.detail


@pytest.mark.parametrize(
    "answer",
    [
        with_length(WHOLE),
        EVENT_STREAM + b"\r\n" + WHOLE,
        EVENT_STREAM + b"\r\n" + chunk("a") + chunk("b", "stop"),
        b"HTTP/1.1 100 Continue\r\nx-request-id: no\r\n\r\n" + with_length(WHOLE),
        with_length(b"\xef\xbb\xbf: hello\r\n\r\n" + WHOLE.replace(b"\n", b"\r\n")),
        with_length(WHOLE) + b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n",
        with_length(
            WHOLE.replace(b'"id": "x"', b'"id": "x", "usage": {"completion_tokens": -1, "prompt_tokens": "x"}')
        ),
    ],
    ids=["a length", "until it closes", "no [DONE]", "an interim answer", "mark and CRLF", "surplus", "bad usage"],
)
def test_every_way_to_send_a_whole_answer_is_understood(answer: bytes) -> None:
    with byte_server([answer]) as server:
        record = send_to(server.port)
    assert (record.error, record.status, record.output_tokens, record.request_id) == (None, 200, 2, "x")
    assert (record.token_source, record.prompt_tokens) == ("chunks", None)


def test_a_kept_connection_that_the_server_closed_is_replaced_without_an_error() -> None:
    with byte_server([with_length(WHOLE)], [with_length(WHOLE)]) as server:
        client = Client(f"http://127.0.0.1:{server.port}")
        assert [client.send(spec_of()).error for _ in range(2)] == [None, None]
        client.close()


def test_a_kept_connection_that_closes_on_the_next_request_is_tried_once_more() -> None:
    with byte_server([with_length(WHOLE), b""], [with_length(WHOLE)]) as server:
        client = Client(f"http://127.0.0.1:{server.port}")
        assert [client.send(spec_of()).error for _ in range(2)] == [None, None]
        client.close()
    assert len(server.requests) == 3


def test_a_new_connection_that_closes_is_not_tried_again() -> None:
    with byte_server([b""], [with_length(WHOLE)]) as server:
        assert send_to(server.port).error is ErrorKind.CUT
    assert len(server.requests) == 1


def test_a_connection_with_surplus_bytes_is_not_used_again() -> None:
    with byte_server([with_length(WHOLE) + b"x", b""], [with_length(WHOLE)]) as server:
        client = Client(f"http://127.0.0.1:{server.port}")
        assert [client.send(spec_of()).error for _ in range(2)] == [None, None]
        client.close()
    assert len(server.requests) == 2


def test_requests_at_once_do_not_mix(client: Client) -> None:
    records: list[Record] = []
    lengths = range(1, 17)
    threads = [
        threading.Thread(target=lambda n=n: records.append(client.send(spec_of(max_tokens=n, itl_s=0.001), index=n)))
        for n in lengths
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((record.index, record.output_tokens) for record in records) == [(n, n) for n in lengths]
    assert len({record.request_id for record in records}) == len(lengths)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for ``localhost`` that nobody signed, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    file.write_bytes(private + builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return file


def tls_of(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_https_is_spoken_and_its_connections_are_kept(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with byte_server([with_length(WHOLE)] * 2, tls=tls_of(certificate)) as server:
        client = Client(f"https://localhost:{server.port}")
        assert [client.send(spec_of()).error for _ in range(2)] == [None, None]
        client.close()


def test_a_certificate_that_nobody_signed_is_a_connect_error(certificate: Path) -> None:
    with byte_server([with_length(WHOLE)], tls=tls_of(certificate)) as server:
        record = Client(f"https://localhost:{server.port}").send(spec_of())
    assert record.error is ErrorKind.CONNECT
    assert "SSLCertVerificationError" in record.detail


@pytest.mark.parametrize(
    "url", ["", "localhost:8000", "ftp://x", "http://", "http://a:b@x", "http://x?y=1", "http://x:99999", "http://a..b"]
)
def test_a_wrong_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ValueError):
        Client(url)


@pytest.mark.parametrize("key", ["a\nb", "a\r\nx: y", "schlüssel"])
def test_a_key_that_is_no_header_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError) as refused:
        Client("http://x", api_key=key)
    assert key not in str(refused.value)
