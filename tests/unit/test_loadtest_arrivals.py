"""Prevents a load that is not the one asked for: arrivals of another distribution, rate or order."""

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from loadtest._arrivals import Arrivals, parse_steps
from loadtest._errors import LoadTestError

SEED = 7


def first(arrivals: Arrivals, count: int, seed: int = SEED) -> NDArray[np.float64]:
    return np.array(list(itertools.islice(arrivals.times(seed, None), count)))


def kolmogorov_smirnov(values: NDArray[np.float64], cumulative: NDArray[np.float64]) -> float:
    """√n × the largest distance between the empirical distribution and the given one, at the sorted values."""
    n = len(values)
    steps = np.arange(1, n + 1) / n
    return float(np.sqrt(n) * max((steps - cumulative).max(), (cumulative - steps + 1 / n).max()))


CRITICAL = 1.63
"""Of the Kolmogorov distribution: exceeded by 1 % of true samples (Massey, 1951)."""


@pytest.mark.parametrize("rate", [0.5, 400.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_poisson_arrivals_have_exponential_gaps(rate: float, seed: int) -> None:
    gaps = np.sort(np.diff(first(Arrivals("poisson", rate), 5001, seed)))
    assert kolmogorov_smirnov(gaps, 1 - np.exp(-rate * gaps)) < CRITICAL


def test_the_gaps_of_poisson_arrivals_do_not_depend_on_each_other() -> None:
    gaps = np.diff(first(Arrivals("poisson", 10.0), 20001))
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 3 / math.sqrt(len(gaps))


@pytest.mark.parametrize("shape", [0.25, 1.0, 4.0])
def test_gamma_arrivals_have_the_mean_and_the_burstiness_asked_for(shape: float) -> None:
    gaps = np.diff(first(Arrivals("gamma", 20.0, burstiness=shape), 40001))
    assert gaps.mean() == pytest.approx(1 / 20, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / math.sqrt(shape), rel=0.03)


def test_a_gamma_process_of_shape_1_is_the_poisson_process() -> None:
    assert first(Arrivals("gamma", 3.0, burstiness=1.0), 100).tolist() == first(Arrivals("poisson", 3.0), 100).tolist()


def test_a_seed_gives_its_schedule_again_and_another_one_another() -> None:
    poisson = Arrivals("poisson", 5.0)
    assert first(poisson, 3000, 1).tolist() == first(poisson, 3000, 1).tolist()
    assert first(poisson, 10, 1).tolist() != first(poisson, 10, 2).tolist()


def test_constant_arrivals_are_equally_spaced_from_the_start_on() -> None:
    assert list(Arrivals("constant", 4.0).times(SEED, 1.5)) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25]


def test_a_ramp_sends_when_the_integral_of_its_rate_reaches_the_next_number() -> None:
    times = np.array(list(Arrivals("ramp", 1.0, peak=9.0).times(SEED, 10.0)))
    # 1 t + 0.4 t² requests until t: 50 of them in 10 s.
    assert (times + 0.4 * times**2).tolist() == pytest.approx(list(range(50)))


def test_a_ramp_may_fall() -> None:
    times = np.array(list(Arrivals("ramp", 9.0, peak=1.0).times(SEED, 10.0)))
    assert (9 * times - 0.4 * times**2).tolist() == pytest.approx(list(range(50)))


def test_steps_have_their_rates_for_their_times_and_then_end() -> None:
    arrivals = Arrivals("steps", steps=parse_steps("1:2,4:1,0:3,2:1"))
    assert list(arrivals.times(SEED, None)) == [0.0, 1.0, 2.0, 2.25, 2.5, 2.75, 6.0, 6.5]
    assert arrivals.natural_duration() == 7.0


def test_spikes_come_at_the_end_of_every_period_for_ever() -> None:
    arrivals = Arrivals("spikes", 1.0, peak=4.0, spike_every=3.0, spike_length=1.0)
    assert list(arrivals.times(SEED, 6.0)) == [0, 1, 2, 2.25, 2.5, 2.75, 3, 4, 5, 5.25, 5.5, 5.75]


def test_a_trace_is_sent_as_it_is_until_the_run_ends() -> None:
    arrivals = Arrivals("trace", trace=(0.0, 0.1, 0.1, 2.0, 9.0))
    assert list(arrivals.times(SEED, 3.0)) == [0.0, 0.1, 0.1, 2.0]
    assert list(arrivals.times(SEED, arrivals.natural_duration())) == [0.0, 0.1, 0.1, 2.0, 9.0]


def test_the_rate_asked_for_is_that_of_the_window() -> None:
    assert Arrivals("poisson", 5.0).mean_rate(SEED, 10.0, (1.0, 9.0)) == 5.0
    assert Arrivals("steps", steps=((1.0, 10.0), (4.0, 10.0))).mean_rate(SEED, 20.0, (10.0, 19.9)) == pytest.approx(
        40 / 9.9
    )


def test_the_rate_asked_for_of_constant_arrivals_is_that_of_the_requests_that_fit_into_the_window() -> None:
    arrivals = Arrivals("constant", 0.3)
    # At 3.3 and 6.7 s: by the nominal rate a client that keeps the schedule would be 26 % off.
    assert arrivals.mean_rate(SEED, 10.0, (1.0, 10.0)) == pytest.approx(2 / 9)
    assert arrivals.mean_rate(SEED, 10.0, (0.0, 10.0)) == pytest.approx(0.3)


def test_an_arrival_at_the_edge_of_the_window_is_asked_for_as_records_hold_it() -> None:
    arrivals = Arrivals("trace", trace=(0.0, 0.99999996, 2.0000004))
    assert arrivals.mean_rate(SEED, 3.0, (1.0, 2.0)) == 2.0


@pytest.mark.parametrize(
    ("arrivals", "sentence"),
    [
        (Arrivals("poisson"), "these --arrivals need --rate, requests/s"),
        (Arrivals("ramp", 1.0), "these --arrivals need --peak, requests/s"),
        (Arrivals("ramp", 1.0, peak=2.0), "--arrivals ramp needs -t: the rate reaches --peak when the run ends"),
        (Arrivals("steps"), "--arrivals steps needs --steps, for example 2:30,4:30,8:30"),
        (
            Arrivals("spikes", 1.0, peak=2.0, spike_every=3.0, spike_length=3.0),
            "--spike-length is 3: it must be less than --spike-every, 3",
        ),
    ],
)
def test_a_missing_parameter_is_named(arrivals: Arrivals, sentence: str) -> None:
    with pytest.raises(LoadTestError, match=f"^{sentence}$"):
        next(arrivals.times(SEED, None))


@pytest.mark.parametrize("text", ["", "2", "2:", "a:1", "-1:5", "1:0", "nan:1", "1:inf", "1:2,"])
def test_steps_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no step|could not convert"):
        parse_steps(text)


def test_reports_name_only_what_belongs_to_the_kind() -> None:
    assert Arrivals("closed").described(SEED) == {"kind": "closed"}
    assert Arrivals("poisson", 2.0, peak=3.0).described(SEED) == {"kind": "poisson", "rate": 2.0, "seed": SEED}
    assert Arrivals("steps", steps=((1.0, 2.0),)).described(SEED) == {"kind": "steps", "steps": [[1.0, 2.0]]}
