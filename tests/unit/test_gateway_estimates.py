"""Prevents: estimates that stay too low while every accepted request waits longer than it was promised."""

import pytest

from deploy.gateway.estimates import DEVIATIONS, DOUBT, LARGEST, ROUNDS, Correction

SLOTS = 16
AVERAGED = ROUNDS * SLOTS
UNTAUGHT = 1 + DEVIATIONS * DOUBT


def taught(estimated_s: float, waited_s: float, times: int) -> float:
    correction = Correction(SLOTS)
    for _ in range(times):
        correction.learn(estimated_s, waited_s)
    return correction.factor


def test_what_was_never_checked_is_doubted() -> None:
    assert Correction(SLOTS).factor == UNTAUGHT == 2.5


def test_estimates_that_prove_right_are_believed() -> None:
    assert taught(4.0, 4.0, 30 * AVERAGED) == pytest.approx(1.0, abs=1e-6)


def test_waits_of_twice_the_estimate_double_it_in_the_end() -> None:
    assert taught(4.0, 8.0, 1) == UNTAUGHT + (1 + DEVIATIONS * (1 - DOUBT)) / AVERAGED
    assert taught(4.0, 8.0, 30 * AVERAGED) == pytest.approx(2.0, abs=1e-6)


def test_waits_shorter_than_estimated_lower_no_estimate() -> None:
    assert taught(4.0, 1.0, 30 * AVERAGED) == 1.0


def test_waits_that_vary_raise_it_above_their_mean() -> None:
    correction = Correction(SLOTS)
    for waited_s in [4.0, 8.0] * 10 * AVERAGED:
        correction.learn(4.0, waited_s)
    assert correction.factor == pytest.approx(1.5 + DEVIATIONS * 0.5, rel=0.05)


@pytest.mark.parametrize("slots", [4, 128])
def test_how_much_one_round_differs_from_the_next_is_remembered(slots: int) -> None:
    correction = Correction(slots)
    for waited_s in [4.0, 6.0] * 50:
        for _ in range(slots):
            correction.learn(4.0, waited_s)
            assert correction.factor >= 1.5


def test_short_estimates_teach_nothing() -> None:
    assert taught(0.4, 40.0, 100) == UNTAUGHT


def test_one_request_counts_no_more_than_the_largest_factor() -> None:
    error = LARGEST - 1
    assert taught(1.0, 1000.0, 1) == UNTAUGHT + (error + DEVIATIONS * (error - DOUBT)) / AVERAGED
