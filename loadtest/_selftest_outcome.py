"""What one level of the self-test showed: the client's errors against what the mock sent, and a run's own verdict.

The error of a time to first token is |first chunk seen − first chunk sent|, of an inter-token latency |gap seen − gap
sent|, all on the machine's one monotonic clock. It includes the loopback network, some tens of microseconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from loadtest import _schema as schema
from loadtest._request import Record
from loadtest._run_data import HealthSample, RunData
from loadtest._selftest_client import WARM_UP_S, Level, Measured
from loadtest._summary import build

TTFT_ERROR_P99_S = 0.003
ITL_ERROR_MEAN_S = 0.001
ACHIEVED_SHARE = 0.95
"""Below this share of the requested tokens/s the client holds the load back: it sends too late."""
MOCK_LATE_S = 0.005
"""Mean lateness of the mock's own chunks past which it, not the client, is the limit."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one level showed. Times in seconds."""

    streams: int
    tokens_per_s: float
    requests: int
    failed: int
    achieved_tokens_per_s: float
    ttft_error_p50: float
    ttft_error_p99: float
    itl_error_mean: float
    loop_lag_max: float
    cpu_share: float
    mock_late_mean: float
    verdict: schema.Verdict
    """What a run with this load says of itself, which does not know what was truly sent."""
    reasons: list[str]
    """Why the level is not measured truthfully; empty where it is."""


def judge(level: Level, measured: Measured, sent: Mapping[str, Any]) -> Outcome:
    """Compare what was measured with what the mock sent (``requests`` of ``/mock/sent``)."""
    every = [Record.from_row(row) for row in measured.rows]
    records = [record for record in every if record.sent >= measured.start + WARM_UP_S]
    good = [record for record in records if record.error is None and record.gaps and record.request_id in sent]
    times = {record.request_id: np.array(sent[record.request_id]["times"]) for record in good}
    first = [abs((record.first or 0.0) - times[record.request_id][0]) for record in good]
    gaps = [np.abs(np.array([gap for gap, _ in r.gaps]) - np.diff(times[r.request_id])) for r in good]
    late = [_lateness(truth) for truth in sent.values()]
    health = [HealthSample(*row) for row in measured.health]
    outcome = Outcome(
        streams=level.streams,
        tokens_per_s=level.tokens_per_s,
        requests=len(records),
        failed=len(records) - len(good),
        achieved_tokens_per_s=_achieved(level, measured.start + WARM_UP_S, sent),
        ttft_error_p50=_percentile(first, 50),
        ttft_error_p99=_percentile(first, 99),
        itl_error_mean=float(np.concatenate(gaps).mean()) if gaps else float("inf"),
        loop_lag_max=max((sample.loop_lag_s for sample in health), default=float("inf")),
        cpu_share=measured.cpu_share,
        mock_late_mean=float(np.concatenate(late).mean()) if late else 0.0,
        verdict=_verdict(level, [record.shifted(-measured.start) for record in every], health),
        reasons=[],
    )
    return replace(outcome, reasons=_reasons(level, outcome))


def _verdict(level: Level, records: list[Record], health: list[HealthSample]) -> schema.Verdict:
    run = RunData(
        records=records,
        health=health,
        started_wall=0.0,
        duration_s=WARM_UP_S + level.seconds,
        warmup_s=WARM_UP_S,
        cooldown_s=0.0,
        arrivals={"kind": "closed"},
        workload={"name": "selftest"},
        requested_rate=None,
        users=level.streams,
        processes=1,
        host="the mock server",
        model="mock",
        seed=0,
        nonce="",
        command="",
        versions={},
    )
    return build(run, []).verdict


def _lateness(truth: Mapping[str, Any]) -> Any:
    times = np.array(truth["times"])
    return times - truth["first_due"] - np.arange(len(times)) * truth["itl_s"]


def _achieved(level: Level, start: float, sent: Mapping[str, Any]) -> float:
    """Tokens per second that the mock sent while every stream was under way."""
    if not sent:
        return 0.0
    times = np.concatenate([np.array(truth["times"]) for truth in sent.values()])
    return float(np.count_nonzero((times >= start) & (times < start + level.seconds)) / level.seconds)


def _percentile(values: Sequence[float], percent: float) -> float:
    return float(np.percentile(values, percent)) if values else float("inf")


def _reasons(level: Level, outcome: Outcome) -> list[str]:
    reasons = []
    if outcome.failed or not outcome.requests:
        reasons.append(f"{outcome.failed} of {outcome.requests} requests failed")
    if outcome.ttft_error_p99 > TTFT_ERROR_P99_S:
        reasons.append(f"TTFT error p99 {outcome.ttft_error_p99 * 1e3:.1f} ms > {TTFT_ERROR_P99_S * 1e3:g} ms")
    if outcome.itl_error_mean > ITL_ERROR_MEAN_S:
        reasons.append(f"mean ITL error {outcome.itl_error_mean * 1e3:.2f} ms > {ITL_ERROR_MEAN_S * 1e3:g} ms")
    if outcome.achieved_tokens_per_s < ACHIEVED_SHARE * level.rate:
        reasons.append(f"{outcome.achieved_tokens_per_s:.0f} of {level.rate:.0f} tokens/s achieved")
    if outcome.verdict.level == "INVALID":
        reasons.append("a run calls itself INVALID: " + outcome.verdict.reasons[0].text.partition(":")[0])
    if reasons and outcome.mock_late_mean > MOCK_LATE_S:
        reasons.append(f"the mock server itself was {outcome.mock_late_mean * 1e3:.0f} ms late")
    return reasons
