"""Prevents: a percentile that nobody measured, an interval that is too narrow, and a sum that leaves something out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest._request import ErrorKind
from loadtest._samples import cut_by_server, samples_of, tokens_on_time, tokens_within
from loadtest._statistics import (
    draw_groups,
    enough_samples,
    interval,
    little_noise,
    little_residual,
    mean,
    percentile,
    percentiles,
    resampled_means,
    resampled_percentiles,
    samples_needed,
    time_average,
)
from tests.unit.loadtest_runs import failure, record

TO_TWENTY = np.array(range(20, 0, -1), dtype=np.float64)


@pytest.mark.parametrize(
    ("q", "expected"),
    [(0, 1), (0.05, 1), (0.051, 2), (0.5, 10), (0.9, 18), (0.95, 19), (0.951, 20), (0.99, 20), (1, 20)],
)
def test_a_percentile_is_the_value_at_the_nearest_rank(q: float, expected: float) -> None:
    assert percentile(TO_TWENTY, q) == expected


@given(
    values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50),
    q=st.sampled_from([0.0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_a_percentile_is_what_numpy_calls_the_inverted_distribution_function(values: list[float], q: float) -> None:
    assert percentile(np.array(values), q) == np.quantile(values, q, method="inverted_cdf")


def test_a_weight_counts_as_so_many_samples() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([2.0, 7.0, 1.0])
    repeated = np.repeat(values, weights.astype(int))
    for q in (0.0, 0.5, 0.7, 0.71, 0.8, 0.81, 0.95):
        assert percentile(values, q, weights) == percentile(repeated, q)
    assert mean(values, weights) == repeated.mean() == 1.5


def test_nothing_has_no_percentile_and_no_mean() -> None:
    nothing = np.array([])
    assert np.isnan(percentiles(nothing, [0.5, 0.9])).all()
    assert math.isnan(mean(nothing))


@pytest.mark.parametrize(("q", "needed"), [(0.5, 20), (0.9, 100), (0.95, 200), (0.99, 1000), (0.999, 10_000)])
def test_ten_samples_must_lie_beyond_a_percentile(q: float, needed: int) -> None:
    assert samples_needed(q) == needed
    assert enough_samples(needed, q)
    assert not enough_samples(needed - 1, q)


def test_whole_groups_are_drawn() -> None:
    # Group 0 holds 1, 2 and 3, group 1 holds 10; the draws take (twice group 0), (one each), (twice group 1).
    values, owners = np.array([1.0, 2.0, 10.0, 3.0]), np.array([0, 0, 1, 0])
    draws = [np.array([2, 0]), np.array([1, 1]), np.array([0, 2])]
    assert resampled_percentiles(values, owners, [0.5, 1.0], draws).tolist() == [[2, 3], [2, 10], [10, 10]]
    assert resampled_means(values, owners, 2, draws).tolist() == [2, 4, 10]


def test_groups_are_drawn_with_their_weights() -> None:
    values, owners, weights = np.array([1.0, 5.0]), np.array([0, 1]), np.array([3.0, 1.0])
    draws = [np.array([1, 1])]
    assert resampled_means(values, owners, 2, draws, weights).tolist() == [2]
    assert resampled_percentiles(values, owners, [0.75, 0.76], draws, weights).tolist() == [[1, 5]]


def test_a_resample_without_a_value_is_no_number() -> None:
    draws = [np.array([0, 1])]
    assert math.isnan(resampled_means(np.array([1.0]), np.array([0]), 2, draws)[0])
    assert np.isnan(resampled_percentiles(np.array([1.0]), np.array([0]), [0.5], draws)).all()


def test_as_many_groups_are_drawn_as_there_are() -> None:
    draws = list(draw_groups([7], seed=3, resamples=50))
    assert [int(draw.sum()) for draw in draws] == [7] * 50
    assert len({tuple(draw.tolist()) for draw in draws}) > 1
    assert [draw.tolist() for draw in draws] == [draw.tolist() for draw in draw_groups([7], seed=3, resamples=50)]
    assert [draw.tolist() for draw in draws] != [draw.tolist() for draw in draw_groups([7], seed=4, resamples=50)]


def test_runs_are_drawn_before_the_groups_within_them() -> None:
    draws = [(int(draw[:3].sum()), int(draw[3:].sum())) for draw in draw_groups([3, 2, 0], seed=1, resamples=500)]
    # Each of three draws takes all of one run's groups: 3, 2 or none.
    assert {(three % 3, two % 2) for three, two in draws} == {(0, 0)}
    assert all(three // 3 + two // 2 <= 3 for three, two in draws)
    assert {three // 3 for three, _ in draws} == {0, 1, 2, 3}


def test_the_interval_holds_its_share_of_the_resamples() -> None:
    resampled = np.array(range(1, 101), dtype=np.float64)
    assert interval(resampled, 0.9) == (5, 95)
    assert interval(np.array([math.nan, 2.0, math.inf]), 0.9) == (2, 2)
    assert interval(np.array([math.nan])) is None


def test_the_interval_of_a_mean_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(5).normal(100, 10, size=400)
    found = interval(resampled_means(values, np.arange(400), 400, draw_groups([400], 1)))
    assert found is not None
    half = 1.96 * values.std() / 20
    assert found == pytest.approx((values.mean() - half, values.mean() + half), abs=0.2)


def test_streams_that_resemble_each_other_inside_give_a_wider_interval() -> None:
    # 20 streams of 50 gaps, each stream at its own pace.
    pace = np.random.default_rng(5).normal(100, 10, size=20)
    values = np.repeat(pace, 50)
    by_stream = interval(resampled_means(values, np.repeat(np.arange(20), 50), 20, draw_groups([20], 1)))
    by_gap = interval(resampled_means(values, np.arange(1000), 1000, draw_groups([1000], 1)))
    assert by_stream is not None
    assert by_gap is not None
    # √50 times wider, but for the noise of the resampling.
    assert (by_stream[1] - by_stream[0]) / (by_gap[1] - by_gap[0]) == pytest.approx(50**0.5, rel=0.1)


def test_the_number_in_flight_is_the_time_that_they_share_with_the_window() -> None:
    starts, ends = np.array([0.0, 1.0, 3.0, 9.0]), np.array([2.0, 1.5, 20.0, 9.5])
    assert time_average(starts, ends, (1.0, 5.0)) == (1 + 0.5 + 2 + 0) / 4
    assert math.isnan(time_average(starts, ends, (5.0, 5.0)))


def test_littles_law() -> None:
    assert little_residual(3, 10, 0.3) == 0
    assert little_residual(6, 10, 0.3) == 1
    assert math.isnan(little_residual(1, 10, 0))
    assert little_noise(6, np.array([0.0, 1.0]), 10) == math.sqrt(2) / 10


@pytest.mark.parametrize("shape", [0.5, 1.0, 100.0])
def test_littles_law_is_off_by_its_noise_whatever_the_latencies_are(shape: float) -> None:
    random = np.random.default_rng(9)
    residuals = []
    for _ in range(400):
        starts = random.uniform(-60, 60, size=random.poisson(10 * 120))
        latency = random.gamma(shape, 1 / shape, size=len(starts))
        inside = starts >= 20
        little = inside.sum() / 40 * latency[inside].mean()
        residuals.append(time_average(starts, starts + latency, (20.0, 60.0)) - little)
    third_moment = (1 + 1 / shape) * (1 + 2 / shape)
    assert np.std(residuals) == pytest.approx(little_noise(10, np.array([third_moment ** (1 / 3)]), 40.0), rel=0.1)


RECORDS = [
    record(ttft=0.1, gap=0.02, tokens=3, lag=0.5),
    failure(ErrorKind.CUT, first=1.4, gaps=[(0.5, 4)], intended=None),
    failure(ErrorKind.STATUS),
    record(intended=None, ttft=0.3, tokens=1),
]


@pytest.mark.parametrize(
    ("name", "values", "owners"),
    [
        # A stream that was cut has the waits that it had, but no end.
        ("ttft", [0.1, 0.4, 0.3], [0, 1, 3]),
        ("schedule_ttft", [0.6], [0]),
        ("tpot", [0.02], [0]),
        ("e2e", [0.14, 0.3], [0, 3]),
        ("largest_stall", [0.02, 0.5], [0, 1]),
        ("lag", [0.5, 0.0], [0, 2]),
    ],
)
def test_each_latency_is_taken_from_the_requests_that_have_it(
    name: str, values: list[float], owners: list[int]
) -> None:
    samples = samples_of(RECORDS, name)
    assert samples.values == pytest.approx(values)
    assert (samples.owners.tolist(), samples.count, samples.weights) == (owners, len(values), None)


def test_inter_token_latency_counts_every_token() -> None:
    samples = samples_of(RECORDS, "itl")
    assert samples.values == pytest.approx([0.02, 0.02, 0.125])
    assert samples.weights is not None
    assert (samples.owners.tolist(), samples.weights.tolist(), samples.count) == ([0, 0, 1], [1, 1, 4], 6)


def test_no_records_have_no_samples() -> None:
    assert [samples_of([], name).count for name in ("ttft", "itl")] == [0, 0]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0.0, 10.0), 11),
        ((0.0, 1.0), 0),
        ((2.0, 3.0), 0),
        # The first token at 1.1, then one each 20 ms: five by 1.18.
        ((0.0, 1.185), 5),
        ((1.185, 9.0), 6),
    ],
)
def test_tokens_count_in_the_window_in_which_they_arrive(window: tuple[float, float], expected: float) -> None:
    assert tokens_within(record(), window) == expected


def test_tokens_that_chunks_do_not_show_are_spread_over_them() -> None:
    # 22 tokens in 11 chunks that show one each.
    assert tokens_within(record(output_tokens=22), (0.0, 1.185)) == 10
    assert tokens_within(failure(ErrorKind.STATUS), (0.0, 9.0)) == 0


@pytest.mark.parametrize(
    ("ttft_s", "itl_s", "expected"),
    [
        (0.1, 0.02, 11),
        (0.09, 0.02, 0),
        # Deadlines 0.05 + k × 0.03 against arrivals 0.1 + k × 0.02: on time from k = 5 on.
        (0.05, 0.03, 6),
        # 0.2 + k × 0.01: on time up to k = 10.
        (0.2, 0.01, 11),
        # 0.15 + k × 0.01: up to k = 5.
        (0.15, 0.01, 6),
    ],
)
def test_a_token_is_on_time_by_its_own_deadline(ttft_s: float, itl_s: float, expected: int) -> None:
    assert tokens_on_time(record(), ttft_s, itl_s) == expected


def test_of_a_chunk_of_several_tokens_the_later_ones_may_be_on_time() -> None:
    # Tokens 1 to 4 arrive at 0.2; deadlines 0.1 + k × 0.04: the third and the fourth are on time.
    chunked = record(gaps=[(0.1, 4)], tokens=5)
    assert tokens_on_time(chunked, 0.1, 0.04) == 1 + 2
    assert tokens_on_time(failure(ErrorKind.STATUS), 1, 1) == 0


def test_only_what_the_network_says_is_a_server_that_went_away() -> None:
    gone = [kind for kind in ErrorKind if cut_by_server(failure(kind))]
    assert gone == [ErrorKind.CONNECT, ErrorKind.TIMEOUT, ErrorKind.CUT]
    assert not cut_by_server(record())
