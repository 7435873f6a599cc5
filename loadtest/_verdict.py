"""Whether the figures of a run can be trusted: VALID, SUSPECT or INVALID, with the reasons.

This judges the measurement, not the server: a server that fails every request fast gives a VALID run with a missed
objective. Only a server that goes away makes the run INVALID, because figures from before and after are then mixed.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from loadtest._request import Record
from loadtest._run_data import RunData, due
from loadtest._samples import cut_by_server
from loadtest._schema import Check, Client, Figures, Level, Load, Reason, Verdict
from loadtest._server_series import ServerSeries
from loadtest._slo import QUANTILES, Objective
from loadtest._statistics import enough_samples, little_noise, samples_needed

SUSPECT_RATE, INVALID_RATE = 0.05, 0.20
"""Share by which the achieved rate may miss the requested one. Queueing rises steeply near saturation, in an M/M/1
queue as load / (1 − load): at 80 % load, 5 % fewer requests wait 21 % less, and 20 % fewer wait 56 % less."""
SIGMAS = 3.0
"""What random arrivals do by themselves is not held against them up to three standard deviations."""
RANDOM = ("poisson", "gamma")
"""Arrivals with chance in them; the others are as they were scheduled."""
SUSPECT_LAG_MS, INVALID_LAG_MS = 10.0, 100.0
"""Dispatch lag p99. 10 ms is the promise for 400 arrivals/s; 100 ms is a delay that people notice (Miller, 1968)."""
SUSPECT_CPU, INVALID_CPU = 0.80, 0.95
"""CPU of a process, as a share of a core, in its busiest 5 % of seconds. One process has one loop and so one core: past
80 % what arrives begins to queue in the client; at 95 % there is no room left, and the client measures itself."""
SUSPECT_LOOP_MS, INVALID_LOOP_MS = 25.0, 100.0
"""The loop's worst lateness in the worst 5 % of seconds. A chunk is stamped that much late at worst: 25 ms is one token
at 40 tokens/s, 100 ms is a noticeable part of any TTFT."""
MERGED = 0.05
"""Share of the chunks that were read together with the one before. Of such a pair only one moment is known, so that the
gap between them is lost; with a late loop it is the client that made the pair."""
SILENT_S = 5.0
"""Processes report once a second. Five seconds without a word are no delay any more."""
TOKEN_MISMATCH = 0.02
"""Share of output tokens that no chunk accounts for (or that chunks invent): each makes an ITL too long (or short)."""
PROMPT_TOLERANCE, PROMPT_MISMATCH = 0.05, 0.01
"""A prompt's length may differ by 5 %, and by more in 1 % of the requests: past that it is another workload."""
HIT_DRIFT, HIT_REQUESTS = 0.10, 20
"""Change of the prefix-hit rate from the first half of the window to the second, and the fewest requests in each."""
RESIDUAL, RESIDUAL_REQUESTS = 0.20, 1.0
"""Little's law: a relative residual that is also more than one request. At 20 % the queue changed visibly."""
DEAD_AFTER = 3
"""Requests sent after the last answer, none of them answered, that make a server count as gone."""
SERVER_COUNTS = ("usage", "continuous_usage")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the checks look at: the figures, and the run that they come from."""

    run: RunData
    measured: list[Record]
    total: Figures
    load: Load
    client: Client
    objectives: Sequence[Objective]


def judge(evidence: Evidence) -> Verdict:
    """The verdict with every reason, the worst first."""
    if not evidence.measured:
        text = "no request fell into the measured window: run longer, or shorten --warmup and --cooldown"
        return Verdict(level="INVALID", reasons=[_invalid("requests", text)])
    reasons = [reason for check in CHECKS for reason in check(evidence)]
    reasons.sort(key=lambda reason: reason.level != "INVALID")
    level: Level = reasons[0].level if reasons else "VALID"
    return Verdict(level=level, reasons=reasons)


def _server(evidence: Evidence) -> list[Reason]:
    answered = [record.ended for record in evidence.run.records if record.status and not cut_by_server(record)]
    last = max(answered, default=-math.inf)
    if not answered:
        detail = evidence.measured[0].detail
        return [_invalid("server", f"the server at {evidence.run.host} never answered: {detail}")]
    after = [record for record in evidence.run.records if record.sent > last]
    if len(after) < DEAD_AFTER or not all(cut_by_server(record) for record in after):
        return []
    text = f"the server stopped answering after {last:.1f} s: all {len(after)} requests sent later failed"
    return [_invalid("server", text)]


def _rate(evidence: Evidence) -> list[Reason]:
    requested, achieved = evidence.load.requested_rate, evidence.load.achieved_rate
    if not requested or achieved is None:
        return []
    miss = abs(achieved / requested - 1)
    if miss <= SIGMAS * _rate_noise(evidence.run, requested):
        return []
    text = f"{achieved:.2f} requests/s were sent where {requested:.2f} were asked for ({miss:.0%} off)"
    return _graded("rate", miss, SUSPECT_RATE, INVALID_RATE, f"{text}: use more --processes or a lower --rate")


def _rate_noise(run: RunData, requested: float) -> float:
    """Relative standard deviation of the number of arrivals: with gamma arrivals its variance is n / burstiness."""
    if run.arrivals.get("kind") not in RANDOM:
        return 0.0
    return 1 / math.sqrt(requested * run.window_s * float(run.arrivals.get("burstiness") or 1))


def _lag(evidence: Evidence) -> list[Reason]:
    lag = evidence.total.metrics.lag.p99
    text = (
        f"1 % of the requests were sent {lag or 0:.0f} ms late or more (limit {SUSPECT_LAG_MS:g}): use more --processes"
    )
    return _graded("lag", lag, SUSPECT_LAG_MS, INVALID_LAG_MS, text)


def _health(evidence: Evidence) -> list[Reason]:
    run = evidence.run
    last = {sample.worker: sample.t for sample in sorted(run.measured_health(), key=lambda one: one.t)}
    reasons = []
    if len(last) < run.processes:
        text = (
            f"only {len(last)} of {run.processes} client processes said how they fared: whether the others kept up is "
            "unknown, and requests of theirs may be missing"
        )
        reasons.append(Reason(level="SUSPECT", check="health", text=text))
    for worker, t in sorted(last.items()):
        if t < run.window[1] - SILENT_S:
            text = f"client process {worker} fell silent after {t:.0f} s: its share of the load is missing from then on"
            reasons.append(Reason(level="SUSPECT", check="health", text=text))
    return reasons


def _cpu(evidence: Evidence) -> list[Reason]:
    cpu = evidence.client.cpu_p95
    text = f"a client process used {cpu or 0:.0%} of a core (limit {SUSPECT_CPU:.0%}): use more --processes"
    return _graded("cpu", cpu, SUSPECT_CPU, INVALID_CPU, text)


def _loop(evidence: Evidence) -> list[Reason]:
    lag = evidence.client.loop_lag_p95_ms
    merged = _merged(evidence.measured)
    too_late = SUSPECT_LOOP_MS if merged > MERGED else INVALID_LOOP_MS
    loss = f", {merged:.0%} of the chunks were read together with the one before" if merged > MERGED else ""
    text = (
        f"the client's event loop ran {lag or 0:.0f} ms late (limit {SUSPECT_LOOP_MS:g}), which latencies contain"
        f"{loss}: use more --processes, or a machine that the server does not share"
    )
    return _graded("loop", lag, SUSPECT_LOOP_MS, too_late, text)


def _merged(records: Sequence[Record]) -> float:
    gaps = sum(len(record.gaps) for record in records)
    return sum(gap == 0 for record in records for gap, _ in record.gaps) / gaps if gaps else 0.0


def _tokens(evidence: Evidence) -> list[Reason]:
    """Chunks against usage, of completed requests: a cut stream has no usage to compare with."""
    reported = [one for one in evidence.measured if one.error is None and one.token_source in SERVER_COUNTS]
    output = sum(record.output_tokens for record in reported)
    differing = sum(map(_unaccounted, reported))
    share = differing / output if output else 0.0
    text = (
        f"the chunks seen account for {output - differing} of the {output} output tokens that the server reports: "
        "it sends several tokens in a chunk, so ITL is the time between chunks; use TPOT"
    )
    return _graded("tokens", share, TOKEN_MISMATCH, math.inf, text)


def _unaccounted(record: Record) -> int:
    """Tokens without a chunk, or chunks without a token."""
    missing = record.output_tokens - record.counted_tokens
    # vLLM counts the token that ends an answer, and sends no chunk with it.
    ended_itself = missing > 0 and record.output_tokens < record.max_tokens
    return abs(missing) - ended_itself


def _prompts(evidence: Evidence) -> list[Reason]:
    known = [(one.prompt_tokens, one.expected_prompt_tokens) for one in evidence.measured]
    pairs = [(found, expected) for found, expected in known if found is not None and expected]
    wrong = [(found, expected) for found, expected in pairs if abs(found - expected) > PROMPT_TOLERANCE * expected]
    if not wrong or len(wrong) <= PROMPT_MISMATCH * len(pairs):
        return []
    found, expected = wrong[0]
    text = (
        f"{len(wrong)} of {len(pairs)} prompts have another length than the workload says (the server counted {found} "
        f"tokens where {expected} were meant): check the workload's tokeniser"
    )
    return [Reason(level="SUSPECT", check="prompts", text=text)]


def _prefix_hits(evidence: Evidence) -> list[Reason]:
    rates = _hit_rates_of_requests(evidence) or _hit_rates_of_server(evidence.run)
    if rates is None:
        return []
    first, second = rates
    text = (
        f"the prefix-hit rate went from {first:.0%} in the first half of the window to {second:.0%} in the second: "
        "lengthen --warmup, or use a new --nonce"
    )
    return _graded("prefix_hits", abs(second - first), HIT_DRIFT, math.inf, text)


def _hit_rates_of_requests(evidence: Evidence) -> tuple[float, float] | None:
    known = [one for one in evidence.measured if one.cached_tokens is not None and one.prompt_tokens]
    middle = sum(evidence.run.window) / 2
    halves = [[one for one in known if due(one) < middle], [one for one in known if due(one) >= middle]]
    if min(len(half) for half in halves) < HIT_REQUESTS:
        return None
    first, second = (
        sum(one.cached_tokens or 0 for one in half) / sum(one.prompt_tokens or 0 for one in half) for half in halves
    )
    return first, second


def _hit_rates_of_server(run: RunData) -> tuple[float, float] | None:
    """By the server's counters, where its answers do not say how much of a prompt was cached."""
    (start, end), server = run.window, ServerSeries(run.server)
    middle = (start + end) / 2
    rates = []
    for half in ((start, middle), (middle, end)):
        hits, queries = server.increase("prefix_hits", half), server.increase("prefix_queries", half)
        if hits is None or not queries:
            return None
        rates.append(hits / queries)
    return rates[0], rates[1]


def _steady_state(evidence: Evidence) -> list[Reason]:
    load = evidence.load
    if load.in_flight is None or not load.little or not load.achieved_rate:
        return []
    latencies = np.array([record.e2e for record in evidence.measured])
    allowed = SIGMAS * little_noise(load.achieved_rate, latencies, evidence.run.window_s)
    if abs(load.in_flight - load.little) <= max(RESIDUAL * load.little, RESIDUAL_REQUESTS, allowed):
        return []
    text = (
        f"no steady state: {load.in_flight:.1f} requests were in flight where the rate and the latency make "
        f"{load.little:.1f} (Little's law), so the figures depend on how long the run is"
    )
    return [Reason(level="SUSPECT", check="steady_state", text=text)]


def _records(evidence: Evidence) -> list[Reason]:
    """The records against the in-flight gauges of the processes: records that never arrived leave a gap."""
    load, samples = evidence.load, evidence.client.samples
    if load.in_flight is None or load.in_flight_sampled is None or not samples:
        return []
    seconds = samples / max(1, evidence.run.processes)
    latency = (load.little or 0) / load.achieved_rate if load.achieved_rate else 0.0
    noise = SIGMAS * math.sqrt(load.in_flight * (1 + 2 * latency) / seconds)
    missing = abs(load.in_flight_sampled - load.in_flight)
    if missing <= max(RESIDUAL * load.in_flight, RESIDUAL_REQUESTS, noise):
        return []
    text = (
        f"the processes counted {load.in_flight_sampled:.1f} requests in flight, the records {load.in_flight:.1f}: "
        "records were lost, or requests were cut off at the end (raise --stop-timeout)"
    )
    return [Reason(level="SUSPECT", check="records", text=text)]


def _samples(evidence: Evidence) -> list[Reason]:
    reasons = []
    for objective in evidence.objectives:
        name, statistic = objective.latency or ("", "")
        if statistic not in QUANTILES:
            continue
        count = getattr(evidence.total.metrics, name).count
        if not enough_samples(count, QUANTILES[statistic]):
            needed = samples_needed(QUANTILES[statistic])
            text = f"{objective.metric} rests on {count} samples and needs {needed}: run longer"
            reasons.append(Reason(level="SUSPECT", check="samples", text=text))
    return reasons


CHECKS: tuple[Callable[[Evidence], list[Reason]], ...] = (
    _server,
    _rate,
    _lag,
    _health,
    _cpu,
    _loop,
    _tokens,
    _prompts,
    _prefix_hits,
    _steady_state,
    _records,
    _samples,
)


def _graded(check: Check, value: float | None, suspect: float, invalid: float, text: str) -> list[Reason]:
    if value is None or not np.isfinite(value) or value <= suspect:
        return []
    return [_invalid(check, text) if value > invalid else Reason(level="SUSPECT", check=check, text=text)]


def _invalid(check: Check, text: str) -> Reason:
    return Reason(level="INVALID", check=check, text=text)
