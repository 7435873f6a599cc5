"""What the gateway costs, with the demo model and with an engine that costs nothing: ``python -m tests.bench gateway``.

Everything on and everything off are measured in turns on one server, so that a machine whose speed drifts treats both
alike (``tests.bench.both_sides``).
"""

import asyncio
import contextlib
import secrets
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from deploy.gateway.observed import BATCH_S
from deploy.gateway.tracing import SEND_PERIOD_S
from deploy.machine import measure
from tests.bench.client import merged, new_session, send_all, summarise
from tests.bench.errors import BenchError
from tests.bench.figures import Goal, spread
from tests.bench.gateway_sides import Side, both_sides
from tests.bench.machine import describe_machine, now, versions
from tests.bench.progress import say
from tests.bench.prompts import prompts
from tests.bench.report import goal_row, table
from tests.bench.results import Load, Record
from tests.bench.setup import make_setup
from tests.bench.systems import product
from tests.bench.workload import OUTPUT_TOKENS, PROMPT_WORDS, WARM_UP
from tests.live.deployment import free_port

ALONE, BUSY = 1, 32
WORDS, TOKENS = {ALONE: 8, BUSY: PROMPT_WORDS}, {ALONE: 2, BUSY: OUTPUT_TOKENS}
"""The gateway adds as much to the first token of a short request, and the model's own time varies by less there."""
PAUSE_S = {ALONE: BATCH_S + 0.25, BUSY: SEND_PERIOD_S + 0.5}
"""Before each turn: what one side does after its requests must not fall into the other's. Sending spans is left out
where medians count: one request of many waits for it."""
FAKE_REQUESTS, FAKE_AT_ONCE = 4000, 32
MODEL = "demo"
PROGRAM = ("-m", "tests.bench.both_sides")


@dataclass(frozen=True)
class Turns:
    """How often each side has its turn at a concurrency, and how many requests it sends then."""

    turns: int
    requests: int


FULL = {ALONE: Turns(30, 20), BUSY: Turns(12, BUSY)}
"""A turn at 32 is one round of requests: from one longer turn to the next a machine's speed drifts by more than 2 %."""

QUICK = {ALONE: Turns(2, 3), BUSY: Turns(1, BUSY)}


class Texts:
    """Prompts that no server has seen before."""

    def __init__(self) -> None:
        self._nonce, self._first = secrets.token_hex(4), 0

    def take(self, count: int, words: int) -> list[str]:
        """The next ``count`` of them."""
        self._first += count
        return prompts(self._nonce, self._first - count, count, words)


class Sides(Record):
    """One repeat, of one start: the loads of each side."""

    on: list[Load]
    off: list[Load]

    @property
    def added_ttft_ms(self) -> float:
        """Median time to first token at concurrency 1: on less off."""
        return (self.on[0].ttft_p50_s - self.off[0].ttft_p50_s) * 1000

    @property
    def added_ttft_busy_ms(self) -> float:
        """The same at concurrency 32, of requests that come all at once."""
        return (self.on[1].ttft_p50_s - self.off[1].ttft_p50_s) * 1000

    @property
    def tokens_lost_percent(self) -> float:
        """Output tokens/s at concurrency 32 that are missing with everything on."""
        return (1 - self.on[1].tokens_per_s / self.off[1].tokens_per_s) * 100


class FakeSides(Record):
    """Requests in each second of one core's time, with an engine that costs nothing."""

    stream: bool
    on: float
    off: float

    @property
    def added_us(self) -> float:
        """CPU time that the gateway takes of each request, in microseconds."""
        return (1 / self.on - 1 / self.off) * 1e6


class GatewayBench(Record):
    """The whole run."""

    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    repeats: list[Sides]
    fake: list[FakeSides]


def run(*, quick: bool, repeats: int) -> GatewayBench:
    """Measure both parts.

    Raises:
        ServeError: something failed to run.
    """
    with both_sides() as (on, off):
        fake = [
            FakeSides(stream=stream, on=fake_rate(on, stream, quick), off=fake_rate(off, stream, quick))
            for stream in (False, True)
            for _ in range(repeats)
        ]
        turns = QUICK if quick else FULL
        loads = [demo_repeat((on, off), f"repeat {number} of {repeats}", turns) for number in range(1, repeats + 1)]
    return GatewayBench(date=now(), machine=describe_machine(), versions=versions(), repeats=loads, fake=fake)


def demo_repeat(sides: tuple[Side, Side], title: str, turns: dict[int, Turns]) -> Sides:
    """Start a server with the demo model and both sides, and measure them."""
    say(f"{title}: starting")
    texts = Texts()
    with product(make_setup(*sides[0].flags), PROGRAM) as running:
        for side in sides:
            send(running.url, side, texts, BUSY, WARM_UP)
        loads = [take_turns(running.url, sides, texts, at_once, turns[at_once]) for at_once in (ALONE, BUSY)]
    for side in sides:
        for load in loads:
            say(f"{title}, everything {side.name}: concurrency {load[side.name].describe()}")
    return Sides(**{side.name: [load[side.name] for load in loads] for side in sides})


def take_turns(url: str, sides: tuple[Side, Side], texts: Texts, at_once: int, turns: Turns) -> dict[str, Load]:
    """The load of each side by its name. They take turns in being first, so that coming second favours neither."""
    found: dict[str, list[Load]] = {side.name: [] for side in sides}
    for turn in range(turns.turns):
        for side in sides if turn % 2 == 0 else reversed(sides):
            time.sleep(PAUSE_S[at_once])
            found[side.name].append(send(url, side, texts, at_once, turns.requests))
    return {name: merged(loads) for name, loads in found.items()}


def send(url: str, side: Side, texts: Texts, at_once: int, requests: int) -> Load:
    """Send so many requests to a side."""
    words = texts.take(requests, WORDS[at_once])
    return summarise(at_once, asyncio.run(send_all(url, MODEL, words, at_once, TOKENS[at_once], side.headers)))


def fake_rate(side: Side, stream: bool, quick: bool) -> float:
    """Requests in each second that a server process with the fake engine was on a core."""
    count = FAKE_REQUESTS // (10 if quick else 1)
    with fake_server(side) as (url, process):
        asyncio.run(send_fake(url, side, stream, count // 10))
        before = sum(process.cpu_times()[:2])
        asyncio.run(send_fake(url, side, stream, count))
        rate = count / (sum(process.cpu_times()[:2]) - before)
    say(f"fake engine, stream {stream}, {side.name}: {rate:.0f} requests/s of a core")
    return rate


@contextlib.contextmanager
def fake_server(side: Side) -> Iterator[tuple[str, psutil.Popen]]:
    """The process, on one core, once it answers."""
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.fake_engine", str(port), *side.flags]
    process = psutil.Popen(command, stderr=subprocess.DEVNULL)
    try:
        process.cpu_affinity([measure().cores[0]])
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=5):
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise BenchError("the server with the fake engine did not start")
            time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()


async def send_fake(url: str, side: Side, stream: bool, count: int) -> None:
    """Send so many completions, ``FAKE_AT_ONCE`` at a time."""
    body = {"model": MODEL, "prompt": "x" * 500, "stream": stream}
    waiting = iter(range(count))
    async with new_session(side.headers) as session:

        async def work() -> None:
            for _ in waiting:
                async with session.post(f"{url}/v1/completions", json=body) as response:
                    await response.read()
                    if response.status != 200:
                        raise BenchError(f"the server with the fake engine answered {response.status}")

        await asyncio.gather(*(work() for _ in range(FAKE_AT_ONCE)))


def goals(repeats: Sequence[Sides]) -> list[Goal]:
    """What the gateway may cost, and what it costs."""
    added, lost = spread(side.added_ttft_ms for side in repeats), spread(side.tokens_lost_percent for side in repeats)
    return [
        Goal("time to first token added at 1", added, 1, False, 2, " ms"),
        Goal("tokens/s lost at 32", lost, 2, False, 1, " %"),
    ]


def render(bench: GatewayBench) -> str:
    """The figures as Markdown."""
    rows = []
    for stream in (False, True):
        sides = [side for side in bench.fake if side.stream is stream]
        figures = [spread(side.on for side in sides), spread(side.off for side in sides)]
        added = spread(side.added_us for side in sides)
        rows.append(["stream" if stream else "whole", *(figure.text(0) for figure in figures), added.text(0)])
    at_once = spread(side.added_ttft_busy_ms for side in bench.repeats)
    without = spread(side.off[1].ttft_p50_s * 1000 for side in bench.repeats)
    return "\n\n".join(
        [
            "**The gateway with the demo model: everything on beside everything off**",
            table(["goal", "wanted", "measured", ""], [goal_row(goal) for goal in goals(bench.repeats)]),
            f"When {BUSY} requests come at once, {at_once.text(1)} ms are added to the median time to first token, "
            f"which is {without.text(0)} ms without.",
            "**With an engine that costs nothing**",
            table(["answer", "on, requests/s of a core", "off", "added CPU time of a request, µs"], rows),
        ]
    )
