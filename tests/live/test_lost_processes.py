"""Prevents a process of the deployment that dies or hangs from costing more than itself."""

import signal
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.live.deployment import Deployment, eventually, serving
from tests.live.streams import STORY, Stream, start_stream

pytestmark = pytest.mark.live
WRONG_S = 20
"""A controller that takes a replica for dead ends it within this time."""


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    with serving("--scaling.health-check-timeout-s", "3", "--scaling.health-check-period-s", "1") as running:
        yield running


def test_a_controller_that_is_killed_comes_back_to_the_replica_that_runs(deployment: Deployment) -> None:
    """As when the head pod is lost while Redis keeps the state. One that takes the replica for dead starts another."""
    engines = deployment.engines()
    (controller,) = deployment.named(r"^ray::ServeController")
    before, reader = start_stream(deployment.url, STORY, 400)
    controller.kill()
    eventually(
        lambda: controller.pid not in {one.pid for one in deployment.named(r"^ray::ServeController")} != set(),
        60,
        "another controller starts",
    )
    reader.join(timeout=120)
    assert (before.done, before.tokens, before.error) == (True, 400, "")
    until = time.monotonic() + WRONG_S
    while time.monotonic() < until:
        after = Stream()
        after.run(deployment.url, STORY, 50)
        assert (after.done, after.tokens, after.error) == (True, 50, "")
    assert deployment.engines() == engines
    assert len(deployment.named(r"^ray::ServeReplica")) == 1


def test_a_replica_whose_engine_hangs_is_replaced(deployment: Deployment) -> None:
    (engine,) = deployment.engines()
    engine.send_signal(signal.SIGSTOP)
    eventually(lambda: not engine.is_running(), 120, "the engine that hangs is ended")
    assert answers(deployment)
    assert len(deployment.engines()) == 1


def answers(deployment: Deployment) -> bool:
    body = {"model": "demo", "prompt": "Hi", "max_tokens": 2}
    return httpx.post(f"{deployment.url}/v1/completions", json=body, timeout=180).status_code == 200
