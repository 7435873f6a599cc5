"""Prevents: a killed replica that costs more than its own streams, stays away, or has its usage lost or doubled."""

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psutil
import pytest

from tests.live.deployment import Deployment, eventually
from tests.live.gateway.guarded import Guarded, report
from tests.live.streams import Load, load
from tests.live.two_replicas.conftest import PROGRESS_S, Exhausted
from tests.live.two_replicas.usage_lines import lines_of

pytestmark = pytest.mark.live
AT_ONCE = 6
LONG = 400
"""Tokens of a stream that is still running when its replica is killed a few seconds after its first token."""


@dataclass(frozen=True)
class Killed:
    """A load during which one of two replicas was killed and came back.

    ``tokens``: of the streams that were cut, those that had come two periods of the usage log before.
    A kernel may keep this process waiting for seconds while engines have the cores, so what streams when is looked at.
    """

    load: Load
    at: float
    tokens: int


def share_no_core(processes: list[psutil.Process]) -> bool:
    first, second = (set(process.cpu_affinity()) for process in processes)
    return not first & second


def far_from_its_end(pair: Guarded, since: datetime) -> list[int]:
    """Of each replica, how many streams it has written down since then with a hundred tokens to come."""

    def counts(line: dict[str, Any]) -> bool:
        written = datetime.fromisoformat(line["end"])
        return not line["final"] and written >= since and line["completion_tokens"] < LONG - 100

    last = [{line["record"]: line for line in own}.values() for own in lines_of(pair.usage, "free").values()]
    return [sum(map(counts, own)) for own in last]


def steady(running: Load, pair: Guarded) -> dict[int, int]:
    """Chunks of every stream in flight, by its identity, once all that is returned is written down.

    Besides, HAProxy has given each of the two replicas half of the streams.
    """
    found: dict[int, int] = {}

    def goes_on() -> bool:
        found.clear()
        found.update({id(stream): stream.chunks for stream in running.in_flight()})
        seen = datetime.now(UTC)
        time.sleep(2 * PROGRESS_S)
        now = {id(stream) for stream in running.in_flight()}
        if len(found) < AT_ONCE or min(found.values()) <= 20 or now != found.keys():
            return False
        return far_from_its_end(pair, seen) == [AT_ONCE / 2] * 2

    eventually(goes_on, 180, f"all {AT_ONCE} stream")
    return found


def wait_for_return(deployment: Deployment, orphans: list[psutil.Process]) -> None:
    """Wait until a killed replica has come back."""
    eventually(lambda: not any(process.is_running() for process in orphans), 120, "its processes end")
    eventually(lambda: len(deployment.engines()) == 2, 120, "it returns")
    eventually(lambda: len(deployment.serving_ports()) == 2, 120, "it serves again")


@pytest.fixture(scope="module")
def killed(pair: Guarded, exhausted: Exhausted) -> Killed:
    # The quota is used up first: the wait until it is free again goes on beside all this.
    assert not exhausted.after_it.done()
    victim = pair.server.named(r"^ray::ServeReplica")[0]
    orphans = victim.children(recursive=True)
    with load(pair.server.url, AT_ONCE, LONG, pair.key) as running:
        before = steady(running, pair)
        victim.kill()
        at = time.monotonic()
        wait_for_return(pair.server, orphans)
        # Streams that begin now go to the replica that came back too.
        time.sleep(5)
    cut = sum(before.get(id(stream), 0) for _, stream in running.streams if stream.error)
    return Killed(running, at, cut)


def test_each_of_two_replicas_has_cores_of_its_own(pair: Guarded) -> None:
    assert share_no_core(pair.server.engines())


def test_only_its_own_streams_are_cut(killed: Killed) -> None:
    assert killed.load.broken(since=killed.at) == []
    # HAProxy gives each of the two replicas three of the six.
    assert len(killed.load.broken()) == AT_ONCE / 2
    assert killed.tokens > 0
    print(f"of 6 streams in flight were cut: {sorted(set(killed.load.broken()))}")


def test_it_comes_back_on_its_own_cores(killed: Killed, pair: Guarded) -> None:
    assert killed.at > 0
    assert share_no_core(pair.server.engines())


def test_the_usage_log_holds_every_stream_once(killed: Killed, pair: Guarded) -> None:
    streams, cut = len(killed.load.streams), len(killed.load.broken())
    counted = (streams, cut, 0)

    def row_of_free() -> dict[str, Any]:
        (row,) = [row for row in report(pair.usage) if row["key"] == "free"]
        return row

    def counts() -> tuple[int, ...]:
        row = row_of_free()
        return tuple(row[name] for name in ("requests", "unfinished", "errors"))

    # The end of a stream is written down a moment after the client saw it.
    eventually(lambda: counts() == counted, 10, f"requests, unfinished and errors are {counted}")
    lines = [line for own in lines_of(pair.usage, "free").values() for line in own]
    last = {line["record"]: line for line in lines}
    assert [line["completion_tokens"] for line in last.values() if line["final"]] == [LONG] * (streams - cut)
    whole = sum(stream.prompt_tokens for _, stream in killed.load.streams if stream.done)
    assert sum(line["prompt_tokens"] for line in last.values() if line["final"]) == whole
    assert all(line["prompt_tokens"] > 0 for line in last.values())
    # Those that were cut count what was written down, once.
    written = [line["completion_tokens"] for line in last.values() if not line["final"]]
    assert killed.tokens <= sum(written) <= cut * LONG
    row = row_of_free()
    assert row["completion_tokens"] == sum(line["completion_tokens"] for line in last.values())
    assert row["prompt_tokens"] == sum(line["prompt_tokens"] for line in last.values())
    more = {"model": "demo", "prompt": "Hi there", "max_tokens": 2}
    assert pair.post("/v1/completions", more).status_code == 200
    eventually(lambda: row_of_free()["requests"] == streams + 1, 10, "the next request is counted beside them")
