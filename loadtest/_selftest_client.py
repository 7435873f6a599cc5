"""The process that measures in the self-test: greenlets that stream at once, as Locust's users in one process do.

It is run with ``python -m gevent.monkey --module``, so that gevent patches first, as under Locust.
"""

import json
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import gevent

from loadtest._client import Client, settle_memory
from loadtest._request import Record, RequestSpec

LAG_INTERVAL_S = 0.01
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

    rows: list[list[Any]]
    cpu_share: float
    """Processor time / time: 1 is one whole core."""
    loop_lags: list[float]
    """Seconds by which a greenlet that wakes every 10 ms was late."""


def measure(url: str, level: Level) -> Measured:
    """Put the load on the mock server at ``url`` and record it."""
    client = Client(url, timeout_s=level.seconds + 30)
    records: list[Record] = []
    loop_lags: list[float] = []
    settle_memory()
    start, cpu = time.perf_counter(), time.process_time()
    end = start + WARM_UP_S + level.seconds
    watch = gevent.spawn(_watch_loop, loop_lags)
    gevent.joinall(
        [gevent.spawn(_stream, client, level, number, start, end, records) for number in range(level.streams)]
    )
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    watch.kill()
    client.close()
    judged = [record.to_row() for record in records if record.sent >= start + WARM_UP_S]
    return Measured(judged, share, loop_lags)


def _stream(client: Client, level: Level, number: int, start: float, end: float, records: list[Record]) -> None:
    """One user: a request of one second after the other."""
    itl = 1 / level.tokens_per_s
    tokens = max(2, round(level.tokens_per_s))
    messages = [{"role": "user", "content": "Write about the sea."}]
    schedule = {"mock": {"ttft_s": itl, "itl_s": itl}}
    spec = RequestSpec("chat", "mock", "selftest", messages, None, tokens, schedule)
    gevent.sleep(max(0.0, start + number / level.streams * WARM_UP_S - time.perf_counter()))
    while time.perf_counter() < end:
        records.append(client.send(spec, index=len(records), continuous_usage=True))


def _watch_loop(lags: list[float]) -> None:
    while True:
        due = time.perf_counter() + LAG_INTERVAL_S
        gevent.sleep(LAG_INTERVAL_S)
        lags.append(max(0.0, time.perf_counter() - due))


def main() -> None:
    """``URL LEVEL``, the level as JSON; what was measured goes to standard output as JSON."""
    url, level = sys.argv[1:]
    json.dump(asdict(measure(url, Level(**json.loads(level)))), sys.stdout)


if __name__ == "__main__":
    main()
