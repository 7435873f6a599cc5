"""The process that measures in the self-test: greenlets that stream at once, as Locust's users in one process do.

It is run with ``python -m gevent.monkey --module``, so that gevent patches first, as under Locust.
"""

import json
import sys
import time
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

import gevent

from loadtest._client import Client, settle_memory
from loadtest._request import Record, RequestSpec
from loadtest._run_data import HealthSample

LAG_INTERVAL_S = 0.01
HEALTH_INTERVAL_S = 1.0
WARM_UP_S = 1.0
"""Streams start spread over this time, and what is sent in it is not judged: connections are new."""


@dataclass(frozen=True, slots=True)
class Level:
    """One load: so many streams at once, each of so many tokens per second."""

    streams: int
    tokens_per_s: float
    seconds: float

    @property
    def rate(self) -> float:
        """Tokens per second of all streams together."""
        return self.streams * self.tokens_per_s


@dataclass(slots=True)
class Measured:
    """What the process measured at a level."""

    start: float
    """Start of the load, seconds of ``perf_counter``."""
    rows: list[list[Any]]
    """Records, with times of ``perf_counter``."""
    health: list[list[Any]]
    """Health samples, with times since ``start``."""
    cpu_share: float
    """Processor time / time: 1 is one whole core."""


@dataclass(slots=True)
class Watch:
    """Records how the process fares, second by second."""

    start: float
    samples: list[HealthSample] = field(default_factory=list)
    sent: int = 0
    in_flight: int = 0

    def run(self) -> None:
        """Never returns."""
        at, cpu, worst, sent = time.perf_counter(), time.process_time(), 0.0, self.sent
        while True:
            due = time.perf_counter() + LAG_INTERVAL_S
            gevent.sleep(LAG_INTERVAL_S)
            now = time.perf_counter()
            worst = max(worst, now - due)
            if now - at >= HEALTH_INTERVAL_S:
                used = time.process_time()
                share = (used - cpu) / (now - at)
                self.samples.append(HealthSample(0, now - self.start, share, worst, self.in_flight, self.sent - sent))
                at, cpu, worst, sent = now, used, 0.0, self.sent


def measure(url: str, level: Level) -> Measured:
    """Put the load on the mock server at ``url`` and record it."""
    client = Client(url, timeout_s=level.seconds + 30)
    records: list[Record] = []
    settle_memory()
    start, cpu = time.perf_counter(), time.process_time()
    watch = Watch(start)
    watching = gevent.spawn(watch.run)
    gevent.joinall([gevent.spawn(_stream, client, level, number, watch, records) for number in range(level.streams)])
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    watching.kill()
    client.close()
    return Measured(start, [one.to_row() for one in records], [list(astuple(one)) for one in watch.samples], share)


def _stream(client: Client, level: Level, number: int, watch: Watch, records: list[Record]) -> None:
    """One user: a request of one second after the other."""
    itl = 1 / level.tokens_per_s
    tokens = max(2, round(level.tokens_per_s))
    messages = [{"role": "user", "content": "Write about the sea."}]
    schedule = {"mock": {"ttft_s": itl, "itl_s": itl}}
    spec = RequestSpec("chat", "mock", "selftest", messages, None, tokens, schedule)
    end = watch.start + WARM_UP_S + level.seconds
    gevent.sleep(max(0.0, watch.start + number / level.streams * WARM_UP_S - time.perf_counter()))
    while time.perf_counter() < end:
        watch.sent += 1
        watch.in_flight += 1
        records.append(client.send(spec, index=len(records), continuous_usage=True))
        watch.in_flight -= 1


def main() -> None:
    """``URL LEVEL``, the level as JSON; what was measured goes to standard output as JSON."""
    url, level = sys.argv[1:]
    json.dump(asdict(measure(url, Level(**json.loads(level)))), sys.stdout)


if __name__ == "__main__":
    main()
