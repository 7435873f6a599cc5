"""Prevents: figures of the gateway's cost and of overload that are added up wrongly, and an empty picture."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy.loading import load
from tests.bench import gateway, overload, stalls
from tests.bench.curves import picture
from tests.bench.fake_engine import TOKENS, app_for
from tests.bench.gateway import FakeSides, GatewayBench, Sides
from tests.bench.gateway_sides import OFF
from tests.bench.overload import Outcome, OverloadBench
from tests.bench.results import Load
from tests.bench.stalls import Stall, watched_stalls
from tests.unit.asgi_calls import call, scope_of


def loads(ttft_s: float, tokens: int) -> list[Load]:
    return [
        Load(concurrency=count, wall_s=2, prompt_tokens=1, output_tokens=tokens, ttft_s=[ttft_s] * 3, latency_s=[1] * 3)
        for count in (1, 32)
    ]


def test_what_the_gateway_adds_is_on_less_off() -> None:
    sides = Sides(on=loads(0.0515, 495), off=loads(0.05, 500))
    assert (round(sides.added_ttft_ms, 6), round(sides.tokens_lost_percent, 6)) == (1.5, 1)
    assert [goal.met for goal in gateway.goals([sides])] == [False, True]
    fake = FakeSides(stream=True, on=1000, off=2000)
    assert round(fake.added_us, 6) == 500
    whole = FakeSides(stream=False, on=1, off=2)
    bench = GatewayBench(date="", machine={}, versions={}, repeats=[sides], fake=[fake, whole])
    text = gateway.render(bench)
    assert "| time to first token added at 1 | ≤ 1 ms | 1.50 ms | **missed** |" in text
    assert "When 32 requests come at once, 1.5 ms are added to the median time to first token, which is 50 ms" in text
    assert "| stream | 1000 | 2000 | 500 |" in text


@pytest.mark.parametrize("flags", [(), OFF])
@pytest.mark.parametrize("stream", [False, True])
def test_the_fake_engine_answers_through_the_whole_stack(flags: tuple[str, ...], stream: bool) -> None:
    body = json.dumps({"model": "demo", "prompt": "x", "stream": stream}).encode()

    async def app(*arguments: Any) -> None:
        await app_for(load(argv=(*flags, "--no-log.access")))(*arguments)

    response = call(app, scope_of("/v1/completions"), [body])
    assert (response.status, response.body.count(b"token")) == (200, TOKENS if stream else 0)


def overloaded() -> OverloadBench:
    outcomes = [
        Outcome(sent_s=1, status=200, answered_s=0.5, retry_after_s=None),
        Outcome(sent_s=2, status=429, answered_s=0.004, retry_after_s=5),
        Outcome(sent_s=59, status=200, answered_s=6, retry_after_s=None),
    ]
    known: dict[str, Any] = {"date": "", "machine": {}, "versions": {}, "flags": (), "objective_s": 5}
    stalls = [Stall(ended_s=50.5, seconds=0.03), Stall(ended_s=59, seconds=0.75)]
    return OverloadBench(**known, held_rate=2, sent_rate=20, seconds=60, outcomes=outcomes, stalls=stalls)


def test_both_curves_are_told_for_each_part_of_the_load() -> None:
    lines = overload.render(overloaded()).splitlines()
    assert "| 0–10 s | 1 | 0.50 / 0.50 / 0.50 | 1 | 4.0 / 4.0 / 4.0 | 0 |" in lines
    assert "| 50–60 s | 1 | 6.00 / 6.00 / 6.00 | 0 | - | 750 |" in lines
    assert lines[-1].startswith("50.0% of the accepted requests")
    # The last one had its first token after the load.
    assert lines[-1].endswith("0.02 were begun in each second of the load.")


def test_a_machine_that_does_not_wake_a_sleeper_has_stalled(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sleeper that is always late: to it every wake-up is a stall.
    monkeypatch.setattr(stalls, "SLEEPER", stalls.SLEEPER.replace(f"> {stalls.SHORTEST_S}", "> -1"))
    began = time.monotonic()
    with watched_stalls() as found:
        pass
    assert found
    assert all(began < stall.ended_s < time.monotonic() for stall in found)


def autogroup(pid: int) -> str:
    """Empty where the kernel has no autogroups, and for processes whose session began with the machine (sched(7))."""
    path = Path(f"/proc/{pid}/autogroup")
    return path.read_text(encoding="ascii") if path.exists() else ""


def test_servers_in_sessions_of_their_own_get_a_smaller_share_of_the_cores() -> None:
    command = [sys.executable, "-c", "input()"]
    with (
        psutil.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as server,
        psutil.Popen(command, stdin=subprocess.PIPE) as helper,
    ):
        before = [autogroup(each.pid) for each in (server, helper)]
        stalls.let_this_session_first([server, helper])
        after = [autogroup(each.pid) for each in (server, helper)]
        server.communicate(b"\n")
        helper.communicate(b"\n")
    if not before[0]:
        pytest.skip("this kernel has no autogroups")
    assert before[0] != after[0] == before[0].replace("nice 0", f"nice {stalls.AUTOGROUP_NICE}")
    assert before[1] == after[1]


def test_the_picture_has_a_dot_for_every_answer() -> None:
    image = picture(overloaded())
    assert (image.count("<circle"), image.count('fill="#c0492f"')) == (3, 2)
