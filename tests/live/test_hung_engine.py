"""Prevents an engine that hangs from holding its replica, and with it every request, for ever."""

import signal

import httpx
import pytest

from tests.live.deployment import eventually, serving

pytestmark = pytest.mark.live


def test_a_replica_whose_engine_hangs_is_replaced() -> None:
    checks = ("--scaling.health-check-timeout-s", "3", "--scaling.health-check-period-s", "1")
    with serving(*checks) as deployment:
        (engine,) = deployment.named(r"^VLLM::EngineCore")
        engine.send_signal(signal.SIGSTOP)
        eventually(lambda: not engine.is_running(), 120, "the engine that hangs is ended")
        body = {"model": "demo", "prompt": "Hi", "max_tokens": 2}
        answer = httpx.post(f"{deployment.url}/v1/completions", json=body, timeout=180)
        assert answer.status_code == 200
        assert len(deployment.named(r"^VLLM::EngineCore")) == 1
