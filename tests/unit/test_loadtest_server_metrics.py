"""Prevents: a server's metric taken for another, a counter's restart taken for progress, a key sent to another host."""

import math
import time
from typing import Any

import gevent
import pytest

from loadtest._errors import LoadTestError
from loadtest._run_data import shown
from loadtest._server_metrics import parse
from loadtest._server_scraper import Scraper
from loadtest._server_series import ServerSeries
from loadtest._verdict import HIT_DRIFT
from tests.unit.byte_server import byte_server
from tests.unit.loadtest_runs import record, run_of
from tests.unit.test_loadtest_verdict import reasons

PAGE = """\
# HELP vllm:num_requests_running Running
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 4.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="m"} 2.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.2
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.4
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="m"} 100.0
# TYPE vllm:request_queue_time_seconds histogram
vllm:request_queue_time_seconds_bucket{engine="0",le="0.3"} 1.0
vllm:request_queue_time_seconds_bucket{engine="0",le="+Inf"} 2.0
vllm:request_queue_time_seconds_count{engine="0"} 2.0
vllm:request_queue_time_seconds_sum{engine="0"} 0.75
# TYPE mistral_serve_ongoing_requests gauge
mistral_serve_ongoing_requests 5.0
# TYPE mistral_serve_estimated_wait_seconds gauge
mistral_serve_estimated_wait_seconds NaN
# TYPE mistral_serve_drain_rate gauge
mistral_serve_drain_rate{resource="kv_bytes"} 1000.0
mistral_serve_drain_rate{resource="sequences"} 2.0
# TYPE mistral_serve_rejections_total counter
mistral_serve_rejections_total{key="a",reason="queue"} 1.0
mistral_serve_rejections_total{key="b",reason="queue"} 2.0
# TYPE other_metric gauge
other_metric 7.0
"""
SAMPLE = {
    "source": "http://s/metrics",
    "replica": None,
    "running": 7.0,
    "waiting": 2.0,
    "kv_usage": pytest.approx(0.3),
    "generation_tokens": 100.0,
    "queue_time_count": 2.0,
    "queue_time_sum": 0.75,
    "ongoing": 5.0,
    "drain_rate_kv_bytes": 1000.0,
    "drain_rate_sequences": 2.0,
    "rejections": 3.0,
}
OK = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\nconnection: close\r\n"


def answer(body: str, head: bytes = OK) -> bytes:
    return head + b"content-length: %d\r\n\r\n" % len(body) + body.encode()


def scraped(scraper: Scraper) -> list[dict[str, Any]]:
    return scraper._round()


def test_a_page_becomes_one_sample_with_engines_added_up_and_shares_averaged() -> None:
    assert parse(PAGE, "http://s/metrics") == [SAMPLE]


def test_replicas_that_a_page_names_are_told_apart_under_the_names_that_ray_gives() -> None:
    page = (
        '# TYPE ray_vllm_num_requests_running gauge\nray_vllm_num_requests_running{replica="a"} 1\n'
        'ray_vllm_num_requests_running{replica="b"} 2\n'
        '# TYPE ray_mistral_serve_ongoing_requests gauge\nray_mistral_serve_ongoing_requests{replica="b"} 3\n'
    )
    assert parse(page, "s") == [
        {"source": "s", "replica": "a", "running": 1.0},
        {"source": "s", "replica": "b", "running": 2.0, "ongoing": 3.0},
    ]


def test_a_replica_without_a_name_is_known_by_the_start_of_its_process() -> None:
    page = (
        "# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 1\n"
        "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1700000000.25\n"
    )
    assert parse(page, "s") == [{"source": "s", "replica": "process 1700000000.25", "running": 1.0}]


@pytest.mark.parametrize("page", ["", "# nothing here\n", "other_metric 1\n", "num_requests_running 1\n"])
def test_a_page_without_known_metrics_gives_no_sample(page: str) -> None:
    assert parse(page, "s") == []


def test_the_key_goes_to_the_host_under_test_only() -> None:
    with byte_server([answer(PAGE)]) as own, byte_server([answer(PAGE)]) as other:
        host, foreign = f"http://127.0.0.1:{own.port}", f"http://127.0.0.1:{other.port}/metrics"
        samples = scraped(Scraper(host, [f"{host}/metrics", foreign], api_key="secret"))
        assert b"Authorization: Bearer secret" in own.requests[0]
        assert b"uthorization" not in other.requests[0]
    assert [sample["running"] for sample in samples] == [7.0, 7.0]


def test_a_redirect_is_not_followed() -> None:
    with byte_server([answer(PAGE)]) as target:
        moved = b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:%d/\r\nconnection: close\r\n" % target.port
        with byte_server([answer("", moved)]) as first:
            (sample,) = scraped(Scraper(f"http://127.0.0.1:{first.port}", api_key="secret"))
        assert target.requests == []
    assert sample["error"] == "HTTP 302"


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (answer("", b"HTTP/1.1 401 Unauthorized\r\nconnection: close\r\n"), "HTTP 401"),
        (answer("other_metric 1\n"), "the page holds no metric of vLLM or of this server"),
        (answer("vllm:num_requests_running{ 1\n"), "the page is not in Prometheus' text format"),
        (b"220 mail.example ESMTP\r\n", "220 mail.example ESMTP"),
        (OK + b"content-length: 2\r\n\r\n\xff\xfe", "the page is not in Prometheus' text format"),
    ],
    ids=["refused", "other metrics", "malformed", "not HTTP", "not UTF-8"],
)
def test_a_page_that_cannot_be_read_is_a_sample_with_the_reason(reply: bytes, why: str) -> None:
    with byte_server([reply]) as server:
        url = f"http://127.0.0.1:{server.port}"
        (sample,) = scraped(Scraper(url))
    assert sample == {"source": f"{url}/metrics", "replica": None, "error": why}


def test_a_page_larger_than_the_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest._server_scraper.LARGEST_PAGE", 1 << 20)
    with byte_server([answer("x" * ((1 << 20) + 1))]) as server:
        (sample,) = scraped(Scraper(f"http://127.0.0.1:{server.port}"))
    assert sample["error"] == "the page is larger than 1 MiB"


def test_a_last_round_is_read_at_the_end_and_times_count_from_the_start_of_the_run() -> None:
    with byte_server([answer(PAGE)], [answer(PAGE)]) as server:
        scraper = Scraper(f"http://127.0.0.1:{server.port}", period_s=3600.0)
        begun = time.perf_counter()
        scraper.start()
        gevent.sleep(0)
        scraper.stop()
        samples = scraper.samples(begun)
        scraper.stop()
    assert [sample["generation_tokens"] for sample in samples] == [100.0, 100.0]
    assert 0 <= samples[0]["t"] <= samples[1]["t"] <= time.perf_counter() - begun
    assert len(scraper.samples(begun)) == 2


def test_past_the_bound_every_second_round_is_dropped_and_the_period_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadtest._server_scraper.MOST_ROUNDS", 4)
    scraper = Scraper("http://127.0.0.1:1", period_s=0.25)
    monkeypatch.setattr(scraper, "_round", lambda: [{"source": "s", "replica": None, "running": 1.0}])
    for number in range(5):
        scraper._sample(float(number))
        scraper._thin()
    assert ([sample["t"] for sample in scraper.samples(0.0)], scraper._period_s) == ([0.0, 2.0, 4.0], 0.5)


def test_nothing_of_a_url_that_may_be_secret_is_shown() -> None:
    assert shown("http://user:password@host:1/metrics?token=x#y") == "http://host:1/metrics"


@pytest.mark.parametrize(
    "url",
    ["localhost:8000/metrics", "ftp://host/metrics", "http:///metrics", "http://[::1/metrics", "http://host:x/", ""],
)
def test_an_address_that_is_none_is_a_mistake_in_one_sentence(url: str) -> None:
    with pytest.raises(LoadTestError, match="is no address: write http://HOST:PORT/metrics"):
        Scraper("http://host", [url])


def at(t: float, replica: str | None = None, **values: float) -> dict[str, Any]:
    return {"source": "s", "replica": replica, "t": t, **values}


def known(values: Any) -> list[float | None]:
    return [None if math.isnan(value) else round(float(value), 6) for value in values]


def test_gauges_add_up_over_replicas_and_shares_are_averaged() -> None:
    series = ServerSeries(
        [at(1, "a", running=1, kv_usage=0.2), at(1, "b", running=2, kv_usage=0.4), at(2, "a", running=5)]
    )
    assert known(series.gauge("running").values) == [3, 5]
    assert known(series.gauge("running", "s b").values) == [2, None]
    assert known(series.gauge("kv_usage").values) == [0.3, None]
    assert known(series.replica_count().values) == [2, 1]
    assert (series.replicas, series.seen_in_turn) == (["s a", "s b"], False)


def test_a_restarted_counter_is_unknown_for_one_round_and_no_negative_progress() -> None:
    samples = [at(t, generation_tokens=value) for t, value in ((0, 100), (2, 140), (3, 10), (4, 30))]
    series = ServerSeries(samples)
    assert known(series.rate("generation_tokens").values) == [None, 20, None, 20]
    assert series.increase("generation_tokens", (-1, math.inf)) == 60
    assert series.increase("generation_tokens", (2, 4)) == 20
    assert series.increase("preemptions", (-1, math.inf)) is None


def test_a_share_is_that_of_the_increases_and_unknown_where_nothing_was_counted() -> None:
    rounds = ((0, 5, 10), (1, 8, 16), (2, 8, 16), (3, 9, 20))
    series = ServerSeries([at(t, prefix_hits=hits, prefix_queries=queries) for t, hits, queries in rounds])
    assert known(series.share("prefix_hits", "prefix_queries").values) == [None, 0.5, None, 0.25]


def test_one_address_that_answers_for_two_replicas_in_turn_is_noticed_and_their_counters_are_kept_apart() -> None:
    rounds = ((0, "a", 100), (1, "b", 5000), (2, "a", 120), (3, "b", 5060))
    series = ServerSeries([at(t, replica, generation_tokens=value) for t, replica, value in rounds])
    assert series.seen_in_turn
    assert known(series.rate("generation_tokens").values) == [None, None, 10, 30]


def test_the_share_of_samples_with_a_queue_is_taken_between_two_moments_or_of_the_nearest_one() -> None:
    series = ServerSeries([at(t, waiting=waiting) for t, waiting in ((1, 0), (2, 3), (3, 1), (4, 0))])
    assert series.waiting_share(0.5, 4.5) == 0.5
    assert series.waiting_share(1.9, 3.1) == 1.0
    assert series.waiting_share(2.1, 2.2) == 1.0
    assert series.waiting_share(20, 21) is None
    assert ServerSeries([{"source": "s", "t": 1, "error": "HTTP 401"}]).waiting_share(0, 2) is None


@pytest.mark.parametrize(("drift", "fires"), [(0.5 * HIT_DRIFT, False), (1.5 * HIT_DRIFT, True)])
def test_prefix_hits_that_drift_by_the_servers_counters_are_a_reason_where_its_answers_do_not_tell(
    drift: float, fires: bool
) -> None:
    records = [record(sent=6 + 0.5 * number, cached_tokens=None) for number in range(96)]
    # The window is from 5 to 55 s; hits per 100 queried tokens and second rise at its middle.
    server = [
        at(t, prefix_queries=100 * t, prefix_hits=20 * t + max(0, t - 30) * 100 * drift) for t in map(float, range(61))
    ]
    run = run_of(records, server=server, arrivals={"kind": "closed"}, requested_rate=None, users=1)
    text = (
        f"the prefix-hit rate went from 20% in the first half of the window to {0.2 + drift:.0%} in the second: "
        "lengthen --warmup, or use a new --nonce"
    )
    assert ("SUSPECT", "prefix_hits", text) in reasons(run) if fires else reasons(run) == []
