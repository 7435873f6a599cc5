"""The process that measures in the self-test: greenlets that stream at once, as Locust's users in one process do.

It is run with ``python -m gevent.monkey --module``, so that gevent patches first, as under Locust.
"""

import json
import sys
import time
from dataclasses import asdict, astuple, dataclass
from typing import Any

import gevent

from loadtest._client import Client, settle_memory
from loadtest._health import watch
from loadtest._request import Record, RequestSpec
from loadtest._run_data import HealthSample

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
class Counts:
    """Requests of the process."""

    in_flight: int = 0
    sent: int = 0


def measure(url: str, level: Level) -> Measured:
    """Put the load on the mock server at ``url`` and record it."""
    client = Client(url, timeout_s=level.seconds + 30)
    records: list[Record] = []
    settle_memory()
    start, cpu = time.perf_counter(), time.process_time()
    counts, health = Counts(), list[HealthSample]()
    watching = gevent.spawn(watch, start, 0, lambda: (counts.in_flight, counts.sent), health)
    gevent.joinall(
        [gevent.spawn(_stream, client, level, number, start, counts, records) for number in range(level.streams)]
    )
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    watching.kill()
    client.close()
    return Measured(start, [one.to_row() for one in records], [list(astuple(one)) for one in health], share)


def _stream(client: Client, level: Level, number: int, start: float, counts: Counts, records: list[Record]) -> None:
    """One user: a request of one second after the other."""
    itl = 1 / level.tokens_per_s
    tokens = max(2, round(level.tokens_per_s))
    messages = [{"role": "user", "content": "Write about the sea."}]
    schedule = {"mock": {"ttft_s": itl, "itl_s": itl}}
    spec = RequestSpec("chat", "mock", "selftest", messages, None, tokens, schedule)
    end = start + WARM_UP_S + level.seconds
    gevent.sleep(max(0.0, start + number / level.streams * WARM_UP_S - time.perf_counter()))
    while time.perf_counter() < end:
        counts.sent += 1
        counts.in_flight += 1
        records.append(client.send(spec, index=len(records), continuous_usage=True))
        counts.in_flight -= 1


def main() -> None:
    """``URL LEVEL``, the level as JSON; what was measured goes to standard output as JSON."""
    url, level = sys.argv[1:]
    json.dump(asdict(measure(url, Level(**json.loads(level)))), sys.stdout)


if __name__ == "__main__":
    main()
