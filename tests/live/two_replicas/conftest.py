"""One deployment with two replicas for all tests of this folder, with keys, a usage log and a used-up quota."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import pytest

from tests.live.deployment import eventually
from tests.live.gateway.guarded import Guarded, guarded_server
from tests.live.two_replicas.usage_lines import lines_of

PROGRESS_S = 1
"""How often each replica writes down what its running streams have used."""
QUOTA = 6
"""Requests/minute of the key ``limited``."""
COMPLETION = {"model": "demo", "prompt": "Hi there", "max_tokens": 10, "ignore_eos": True}


@dataclass(frozen=True)
class Exhausted:
    """What requests beyond a quota were answered.

    ``told``: the longest wait that they were told, in s. ``after_it``: the answer to a request sent that much later.
    """

    answers: list[httpx.Response]
    told: int
    after_it: Future[httpx.Response]


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    limited = ("limited", "--requests-per-minute", str(QUOTA))
    flags = ("--replicas", "2", "--usage.progress-s", str(PROGRESS_S))
    with guarded_server(tmp_path_factory.mktemp("pair"), ("free",), limited, *flags) as server:
        yield server


@pytest.fixture(scope="package")
def exhausted(pair: Guarded) -> Iterator[Exhausted]:
    """The wait goes on beside the tests that follow; one of them kills a replica meanwhile."""

    def post(wait_s: float = 0) -> httpx.Response:
        time.sleep(wait_s)
        return pair.post("/v1/completions", COMPLETION, pair.restricted)

    with ThreadPoolExecutor(2 * QUOTA) as pool:
        # One after another begins, so that HAProxy gives both replicas some of those that the quota admits.
        answers = list(pool.map(lambda place: post(place * 0.05), range(2 * QUOTA)))
        told = max(int(answer.headers.get("retry-after", 0)) for answer in answers)
        after_it = pool.submit(post, told)
        # Before a third replica, in the place of a killed one, may write down some too.
        eventually(lambda: len(lines_of(pair.usage, "limited")) == 2, 10, "both replicas wrote down their part")
        yield Exhausted(answers, told, after_it)
