"""A run in figures: from its records and samples to the summary with the verdict and the objectives."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

import numpy as np

from loadtest._figures import figures, per_second
from loadtest._request import Record
from loadtest._run_data import RunData
from loadtest._samples import samples_of
from loadtest._schema import Client, Figures, Load, ObjectiveResult, RunInfo, Summary, Verdict
from loadtest._slo import QUANTILES, Objective, parse_all, value_of
from loadtest._statistics import (
    draw_groups,
    interval,
    little_residual,
    percentile,
    resampled_means,
    resampled_percentiles,
    time_average,
)
from loadtest._verdict import Evidence, judge

__all__ = ["Summary", "build"]

MOST_SAMPLES = 100_000
"""Of a larger sample, every n-th value is resampled: the bootstrap takes seconds, and its interval hardly changes."""


def build(run: RunData, objectives: Sequence[str]) -> Summary:
    """The summary of a run. Raises LoadTestError for an objective that cannot be read."""
    bounds = parse_all(objectives)
    measured = run.measured()
    total, load, client = figures(run, bounds), _load(run, measured), _client(run)
    results = [_result(total, measured, objective, run.seed) for objective in bounds]
    verdict = judge(Evidence(run, measured, total, load, client, bounds))
    return Summary(
        exit_code=exit_code(verdict, results),
        verdict=verdict,
        objectives=results,
        run=_info(run),
        load=load,
        client=client,
        total=total,
        scenarios=_scenarios(run, bounds),
    )


def exit_code(verdict: Verdict, results: Sequence[ObjectiveResult]) -> Literal[0, 1, 3]:
    """0: every objective met and VALID. 1: one missed, by figures that are not INVALID. 3: nothing is proved."""
    if verdict.level == "INVALID":
        return 3
    if not all(result.met for result in results):
        return 1
    return 0 if verdict.level == "VALID" else 3


def _scenarios(run: RunData, objectives: Sequence[Objective]) -> dict[str, Figures]:
    names = sorted({record.scenario for record in run.records})
    return {
        name: figures(
            dataclasses.replace(run, records=[one for one in run.records if one.scenario == name]), objectives
        )
        for name in names
    }


def _load(run: RunData, measured: Sequence[Record]) -> Load:
    rate = per_second(len(measured), run.window_s)
    if rate is None or not measured:
        return Load(
            requested_rate=run.requested_rate,
            achieved_rate=rate,
            in_flight=None,
            in_flight_sampled=None,
            little=None,
            little_residual=None,
        )
    sent = np.array([record.sent for record in run.records])
    ended = np.array([record.ended for record in run.records])
    in_flight = time_average(sent, ended, run.window)
    latency = sum(record.e2e for record in measured) / len(measured)
    return Load(
        requested_rate=run.requested_rate,
        achieved_rate=rate,
        in_flight=in_flight,
        in_flight_sampled=_sampled_in_flight(run),
        little=rate * latency,
        little_residual=little_residual(in_flight, rate, latency) if latency else None,
    )


def _sampled_in_flight(run: RunData) -> float | None:
    health = run.measured_health()
    counts = [
        [one.in_flight for one in health if one.worker == worker] for worker in {one.worker for one in run.health}
    ]
    return sum(sum(each) / len(each) for each in counts) if counts and all(counts) else None


def _client(run: RunData) -> Client:
    health = run.measured_health()
    if not health:
        return Client(samples=0, cpu_p95=None, cpu_max=None, loop_lag_p95_ms=None, loop_lag_max_ms=None)
    cpu = np.array([sample.cpu_share for sample in health])
    lag = np.array([sample.loop_lag_s for sample in health]) * 1000
    return Client(
        samples=len(health),
        cpu_p95=percentile(cpu, 0.95),
        cpu_max=float(cpu.max()),
        loop_lag_p95_ms=percentile(lag, 0.95),
        loop_lag_max_ms=float(lag.max()),
    )


def _result(total: Figures, measured: Sequence[Record], objective: Objective, seed: int) -> ObjectiveResult:
    value = value_of(total, objective)
    return ObjectiveResult(
        text=objective.text,
        metric=objective.metric,
        bound=objective.bound,
        value=value,
        interval=_interval(measured, objective, seed),
        met=objective.holds(value),
    )


def _interval(measured: Sequence[Record], objective: Objective, seed: int) -> tuple[float, float] | None:
    """The bootstrap interval of a latency in ms. None for a maximum, of which a bootstrap says nothing."""
    name, statistic = objective.latency or ("", "max")
    samples = samples_of(measured, name) if name else None
    if samples is None or statistic == "max" or not len(samples.values):
        return None
    step = 1 + len(samples.values) // MOST_SAMPLES
    values, owners = samples.values[::step] * 1000, samples.owners[::step]
    weights = None if samples.weights is None else samples.weights[::step]
    draws = draw_groups([len(measured)], seed)
    if statistic == "mean":
        return interval(resampled_means(values, owners, len(measured), draws, weights))
    return interval(resampled_percentiles(values, owners, [QUANTILES[statistic]], draws, weights)[:, 0])


def _info(run: RunData) -> RunInfo:
    return RunInfo(
        command=run.command,
        host=run.host,
        model=run.model,
        versions=run.versions,
        seed=run.seed,
        nonce=run.nonce,
        started=datetime.fromtimestamp(run.started_wall, UTC).isoformat(timespec="milliseconds"),
        duration_s=run.duration_s,
        warmup_s=run.warmup_s,
        cooldown_s=run.cooldown_s,
        processes=run.processes,
        users=run.users,
        arrivals=run.arrivals,
        workload=run.workload,
    )
