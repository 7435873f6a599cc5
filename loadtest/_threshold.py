"""How certain a threshold is that was found by trials which pass below it and fail above it, with some chance."""

from collections.abc import Sequence

import numpy as np

LAPSE = 0.02
"""Chance of a trial that goes wrong for a reason other than the rate."""
STEEPNESS = np.geomspace(0.01, 0.5, 25)
"""Width of the transition in ln(rate): from 1 % of the rate (a cliff) to half of it."""
POINTS = 801
TAIL = 0.025


def interval(trials: Sequence[tuple[float, bool]]) -> tuple[float | None, float | None]:
    """The 95 % credible interval of the rate at which half of all trials pass; each trial is (rate, passed).

    A bound is None where no trial shows it: there is no upper one while every trial passed, no lower one while
    every trial failed. The lower one is at most the highest rate that passed, the upper one at least the lowest
    that failed: beyond them only the prior would speak. The chance to pass is a logistic curve of ln(rate) of
    unknown place and steepness; each pair is weighted by how likely it makes the trials (as QUEST does for
    thresholds of perception: Watson and Pelli, 1983).
    """
    rates = np.log([rate for rate, _ in trials])
    passed = np.array([outcome for _, outcome in trials])
    if not len(trials):
        return None, None
    places = np.linspace(rates.min() - np.log(4), rates.max() + np.log(4), POINTS)
    distance = (rates[:, None, None] - places[None, :, None]) / STEEPNESS[None, None, :]
    chance = LAPSE + (1 - 2 * LAPSE) / (1 + np.exp(np.clip(distance, -500, 500)))
    likelihood = np.where(passed[:, None, None], chance, 1 - chance).prod(axis=0).sum(axis=1)
    share = np.cumsum(likelihood) / likelihood.sum()
    low, high = np.exp(np.interp([TAIL, 1 - TAIL], share, places))
    return (
        min(float(low), max(rate for rate, met in trials if met)) if passed.any() else None,
        max(float(high), min(rate for rate, met in trials if not met)) if not passed.all() else None,
    )
