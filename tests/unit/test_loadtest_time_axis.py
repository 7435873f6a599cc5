"""Prevents: a value drawn at another time than it happened, a mean over nothing, and bins that grow with the run."""

import math

import numpy as np
import pytest

from loadtest._time_axis import MOST_BINS, TimeAxis
from tests.unit.loadtest_runs import record, run_of

NAN = math.nan
AXIS = TimeAxis(width=2.0, bins=4)


def equal(found: np.ndarray, expected: list[float]) -> bool:
    return bool(np.array_equal(found, np.array(expected), equal_nan=True))


def array(*values: float) -> np.ndarray:
    return np.array(values, dtype=np.float64)


@pytest.mark.parametrize(
    ("duration", "width", "bins"),
    [(60, 0.5, 120), (75, 0.5, 150), (76, 1.0, 76), (600, 5.0, 120), (86_400, 600.0, 144), (10**7, 10**7 / 150, 150)],
)
def test_the_axis_has_the_smallest_width_that_needs_few_enough_bins(duration: float, width: float, bins: int) -> None:
    axis = TimeAxis.over(run_of([], duration_s=float(duration), health=[]))
    assert (axis.width, axis.bins) == (width, bins)
    assert axis.bins <= MOST_BINS


def test_the_axis_reaches_to_the_end_of_the_last_request() -> None:
    axis = TimeAxis.over(run_of([record(sent=9.0, ttft=5.9, tokens=1)], duration_s=10.0))
    assert (axis.width, axis.bins) == (0.5, 30)
    assert equal(AXIS.middles, [1, 3, 5, 7])


def test_what_lies_outside_counts_in_the_first_or_the_last_bin() -> None:
    assert equal(AXIS.counts(array(-1, 0, 1.9, 2, 7.9, 8, 99)), [3, 1, 0, 3])
    assert equal(AXIS.rates(array(0, 3), array(1, 5)), [0.5, 2.5, 0, 0])


def test_percentiles_means_and_largest_values_are_of_each_bin_and_unknown_where_it_is_empty() -> None:
    t, values = array(0, 1, 1, 5, 7), array(1, 2, 9, 4, NAN)
    assert equal(AXIS.quantiles(t, values, [0.5])[0, :3], [2, NAN, 4])
    assert equal(AXIS.quantiles(t, values, [0.5], array(9, 1, 1, 1, 1))[0, :3], [1, NAN, 4])
    assert equal(AXIS.means(t, values), [4, NAN, 4, NAN])
    assert equal(AXIS.largest(t, values), [9, NAN, 4, NAN])


def test_between_two_samples_lies_a_line_but_not_across_a_long_silence_or_beyond_the_ends() -> None:
    fine = TimeAxis(width=0.5, bins=6)
    assert equal(fine.sampled(array(0.6, 1.6), array(1, 3)), [NAN, 1, 2, 3, NAN, NAN])
    assert equal(AXIS.sampled(array(0, 7), array(1, 3)), [1, NAN, NAN, 3])
    assert equal(AXIS.sampled(array(3), array(1)), [NAN, 1, NAN, NAN])
    assert equal(AXIS.sampled(array(), array()), [NAN] * 4)


def test_the_number_in_flight_is_averaged_over_each_bin() -> None:
    assert equal(AXIS.in_flight(array(0, 1, 3), array(4, 3, 3.5)), [1.5, 1.75, 0, 0])
