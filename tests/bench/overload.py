"""Ten times the load that a replica holds: who is accepted or refused, how fast (``python -m tests.bench overload``).

The load is open: requests come at their own times, whatever the server does. What a replica holds is measured first,
with a closed load that keeps all its slots busy.
"""

import asyncio
import math
import random
import secrets
import time
from collections import Counter
from typing import Any

import aiohttp

from tests.bench.client import new_session, request_body, send_all, summarise
from tests.bench.errors import BenchError
from tests.bench.machine import describe_machine, now, versions
from tests.bench.progress import say
from tests.bench.prompts import prompts
from tests.bench.report import table
from tests.bench.results import Record, percentile
from tests.bench.setup import make_setup
from tests.bench.stalls import Stall, let_this_session_first, watched_stalls
from tests.bench.systems import product

TIMES = 10
SLOTS = 16
OUTPUT_TOKENS, PROMPT_WORDS = 32, 50
LONGEST_WAIT_S = 5
"""``admission.max_queue_wait_s``: the objective for the time to first token of accepted requests."""
LOAD_S, QUICK_LOAD_S = 60.0, 10.0
FLAGS = ("--vllm.max-num-seqs", str(SLOTS), "--admission.max-queue-wait-s", str(LONGEST_WAIT_S))
MODEL = "demo"
SEED = 7
HEADER = [
    "sent",
    "accepted",
    "TTFT p50 / p95 / max, s",
    "429",
    "answered p50 / p95 / max, ms",
    "longest stall of the machine, ms",
]


class Outcome(Record):
    """One request. ``sent_s``: since the load began; ``answered_s``: to the first token, or to the refusal."""

    sent_s: float
    status: int
    answered_s: float
    retry_after_s: int | None


class OverloadBench(Record):
    """The whole run. Rates are requests in each second; ``stalls`` of the machine ended since the load began."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    flags: tuple[str, ...]
    objective_s: float
    held_rate: float
    sent_rate: float
    seconds: float
    outcomes: list[Outcome]
    stalls: list[Stall]

    def times(self, status: int) -> list[float]:
        """Of every request with this status, how long its answer took."""
        return [outcome.answered_s for outcome in self.outcomes if outcome.status == status]

    @property
    def begun_rate(self) -> float:
        """Requests in each second that had their first token while the load lasted."""
        begun = [it for it in self.outcomes if it.status == 200 and it.sent_s + it.answered_s <= self.seconds]
        return len(begun) / self.seconds


def run(*, quick: bool) -> OverloadBench:
    """Measure what a replica holds, then send ``TIMES`` as much.

    Raises:
        ServeError: something failed to run, or a request was answered with another status than 200 and 429.
    """
    seconds = QUICK_LOAD_S if quick else LOAD_S
    with product(make_setup(*FLAGS)) as running:
        let_this_session_first(running.family())
        nonce = secrets.token_hex(4)
        held = asyncio.run(_held_rate(running.url, nonce, rounds=2 if quick else 4))
        say(f"the replica holds {held:.1f} requests/s; sending {TIMES * held:.0f} for {seconds:.0f} s")
        began = time.monotonic()
        with watched_stalls() as stalls:
            outcomes = asyncio.run(_overload(running.url, nonce, TIMES * held, seconds))
    others = Counter(outcome.status for outcome in outcomes if outcome.status not in {200, 429})
    if others:
        raise BenchError(f"requests were answered with {dict(others)}")
    return OverloadBench(
        date=now(),
        machine=describe_machine(),
        versions=versions(),
        flags=FLAGS,
        objective_s=LONGEST_WAIT_S,
        held_rate=held,
        sent_rate=TIMES * held,
        seconds=seconds,
        outcomes=sorted(outcomes, key=lambda outcome: outcome.sent_s),
        stalls=[Stall(ended_s=stall.ended_s - began, seconds=stall.seconds) for stall in stalls],
    )


async def _held_rate(url: str, nonce: str, rounds: int) -> float:
    """Requests in each second while every slot is busy, after a round to warm up."""
    texts = prompts(nonce, 0, SLOTS * (rounds + 1), PROMPT_WORDS)
    await send_all(url, MODEL, texts[:SLOTS], SLOTS, OUTPUT_TOKENS)
    load = summarise(SLOTS, await send_all(url, MODEL, texts[SLOTS:], SLOTS, OUTPUT_TOKENS))
    return SLOTS * rounds / load.wall_s


async def _overload(url: str, nonce: str, rate: float, seconds: float) -> list[Outcome]:
    """Requests at random times (Poisson), the same ones in every run, each waited for."""
    between, at = random.Random(SEED), 0.0
    tasks, began = [], time.perf_counter()
    texts = iter(prompts(nonce, 10_000, math.ceil(2 * rate * seconds) + 100, PROMPT_WORDS))
    async with new_session() as session:
        while (at := at + between.expovariate(rate)) < seconds:
            await asyncio.sleep(began + at - time.perf_counter())
            tasks.append(asyncio.create_task(_send(session, url, next(texts), began)))
        return list(await asyncio.gather(*tasks))


async def _send(session: aiohttp.ClientSession, url: str, text: str, began: float) -> Outcome:
    body = request_body(MODEL, text, OUTPUT_TOKENS)
    sent = time.perf_counter()
    async with session.post(f"{url}/v1/completions", json=body) as response:
        # The headers of a stream come before its first token.
        async for line in response.content:
            if line.startswith(b"data:") or response.status != 200:
                break
        answered = time.perf_counter()
        async for _ in response.content:
            pass
        retry_after = response.headers.get("retry-after")
    return Outcome(
        sent_s=round(sent - began, 3),
        status=response.status,
        answered_s=round(answered - sent, 4),
        retry_after_s=None if retry_after is None else int(retry_after),
    )


def render(bench: OverloadBench) -> str:
    """Both curves as a table: one row for each part of the load."""
    parts, rows = 6, []
    for part in range(parts):
        begin, end = bench.seconds * part / parts, bench.seconds * (part + 1) / parts
        now_sent = [outcome for outcome in bench.outcomes if begin <= outcome.sent_s < end]
        accepted = [outcome.answered_s for outcome in now_sent if outcome.status == 200]
        refused = [outcome.answered_s * 1000 for outcome in now_sent if outcome.status == 429]
        figures = [_figures(accepted, 2), _figures(refused, 1)]
        longest = max((stall.seconds for stall in bench.stalls if begin <= stall.ended_s < end), default=0.0)
        stalled = f"{longest * 1000:.0f}"
        rows.append([f"{begin:.0f}–{end:.0f} s", len(accepted), figures[0], len(refused), figures[1], stalled])
    accepted = bench.times(200)
    within = sum(value <= bench.objective_s for value in accepted) / len(accepted) if accepted else 0.0
    return "\n\n".join(
        [
            f"**Overload: {bench.sent_rate:.0f} requests/s, {TIMES} times the {bench.held_rate:.1f} that it holds**",
            table(HEADER, rows),
            f"{within:.1%} of the accepted requests had their first token within the objective of "
            f"{bench.objective_s:g} s. {bench.begun_rate:.2f} were begun in each second of the load.",
        ]
    )


def _figures(values: list[float], digits: int) -> str:
    if not values:
        return "-"
    figures = [percentile(values, 50), percentile(values, 95), max(values)]
    return " / ".join(f"{value:.{digits}f}" for value in figures)
