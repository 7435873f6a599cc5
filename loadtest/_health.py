"""How a load-generating process fares: its CPU, and how late its event loop wakes up, second by second."""

import time
from collections.abc import Callable

import gevent

from loadtest._run_data import HealthSample

TICK_S = 0.01


def watch(start: float, worker: int, counts: Callable[[], tuple[int, int]], samples: list[HealthSample]) -> None:
    """Append a sample for every full second after ``start`` (``perf_counter``), until it is killed.

    ``counts`` gives the requests in flight and those dispatched so far.
    """
    gevent.sleep(max(0.0, start - time.perf_counter()))
    second, cpu, worst = 1, time.process_time(), 0.0
    _, dispatched = counts()
    before = time.perf_counter()
    while True:
        due = min(time.perf_counter() + TICK_S, start + second)
        gevent.sleep(max(0.0, due - time.perf_counter()))
        now = time.perf_counter()
        worst = max(worst, now - due)
        if now < start + second:
            continue
        in_flight, total = counts()
        spent = time.process_time()
        samples.append(
            HealthSample(
                worker=worker,
                t=round(now - start, 6),
                cpu_share=(spent - cpu) / (now - before),
                loop_lag_s=worst,
                in_flight=in_flight,
                dispatched=total - dispatched,
            )
        )
        cpu, dispatched, before, worst = spent, total, now, 0.0
        second = int(now - start) + 1
