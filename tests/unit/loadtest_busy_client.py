"""The self-test's measuring process with a greenlet in it that blocks the loop three quarters of the time.

It spins until a moment has come, so that the loop is as late on a slow or busy machine as on any other.
"""

import time

import gevent

from loadtest._selftest_client import main

BLOCKED_S, FREE_S = 0.15, 0.05


def block() -> None:
    while True:
        end = time.perf_counter() + BLOCKED_S
        while time.perf_counter() < end:
            pass
        gevent.sleep(FREE_S)


if __name__ == "__main__":
    gevent.spawn(block)
    main()
