"""Prevents: requests lost or cut while the number of replicas changes, and a killed replica that stays away."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil
import pytest

from tests.live.deployment import Deployment, eventually, serving
from tests.live.streams import Stream

pytestmark = pytest.mark.live
STORY = "Write a long story about a lighthouse keeper."
TOKENS = 120
LONG = 600
"""Tokens of a stream that is still running when its replica is killed a few seconds after its first token."""


class Load:
    """A steady number of streams, each followed at once by the next, until stopped."""

    def __init__(self, url: str, concurrency: int, tokens: int = TOKENS) -> None:
        self.tokens = tokens
        self.streams: list[tuple[float, Stream]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, number)) for number in range(concurrency)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str, number: int) -> None:
        while not self._stop.is_set():
            stream = Stream()
            self.streams.append((time.monotonic(), stream))
            stream.run(url, f"{number} {len(self.streams)} {STORY}", self.tokens)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=180)

    def finish_more(self, count: int) -> None:
        """Wait until ``count`` more streams have come to their end, whatever it was."""
        goal = self._finished() + count
        eventually(lambda: self._finished() >= goal, 180, f"{count} more streams end")

    def _finished(self) -> int:
        return sum(stream.done or bool(stream.error) for _, stream in self.streams)

    def broken(self, since: float = 0.0) -> list[str]:
        """What went wrong with each stream started after ``since`` that did not bring every token and a proper end."""
        return [
            stream.error or f"ended early after {stream.tokens} tokens"
            for start, stream in self.streams
            if start >= since and not (stream.done and stream.tokens == self.tokens and not stream.error)
        ]


@contextmanager
def load(url: str, concurrency: int, tokens: int = TOKENS) -> Iterator[Load]:
    running = Load(url, concurrency, tokens)
    try:
        yield running
    finally:
        running.stop()


def engines(deployment: Deployment) -> list[psutil.Process]:
    return deployment.named(r"^VLLM::EngineCore")


def cores_of(process: psutil.Process) -> set[int]:
    return set(process.cpu_affinity())


def test_scaling_from_one_to_two_and_back_under_streaming_load_loses_nothing() -> None:
    scaling = {"upscale-delay-s": 1, "downscale-delay-s": 5, "look-back-s": 2, "target-ongoing-requests": 3}
    flags = [f"--scaling.{name}={value}" for name, value in scaling.items()]
    with serving("--min-replicas", "1", "--max-replicas", "2", *flags) as deployment:
        assert len(engines(deployment)) == 1
        with load(deployment.url, 1) as light:
            with load(deployment.url, 7) as heavy:
                eventually(lambda: len(engines(deployment)) == 2, 180, "a second engine starts")
                eventually(lambda: len(replica_ports(deployment)) == 2, 120, "the second replica serves")
                heavy.finish_more(14)
            eventually(lambda: len(engines(deployment)) == 1, 120, "the second engine ends")
            light.finish_more(2)
        assert heavy.broken() == []
        assert light.broken() == []


def replica_ports(deployment: Deployment) -> set[int]:
    """Ports on which replicas' HTTP servers have answered at least one request of HAProxy's."""
    ports = set()
    for process in deployment.named(r"^ray::ServeReplica"):
        # A command that a replica is about to run bears the replica's name for a moment.
        with suppress(psutil.NoSuchProcess):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_ESTABLISHED and 20000 <= connection.laddr.port < 30000:
                    ports.add(connection.laddr.port)
    return ports


def test_a_killed_replica_costs_only_its_own_streams_and_comes_back() -> None:
    with serving("--replicas", "2") as deployment:
        first, second = engines(deployment)
        assert cores_of(first) & cores_of(second) == set()
        with load(deployment.url, 6, LONG) as running:
            eventually(lambda: all(stream.started.is_set() for _, stream in running.streams[:6]), 180, "all six stream")
            victim = deployment.named(r"^ray::ServeReplica")[0]
            orphans = victim.children(recursive=True)
            victim.kill()
            killed = time.monotonic()
            eventually(
                lambda: len(engines(deployment)) == 2 and not any(p.is_running() for p in orphans), 120, "it returns"
            )
            eventually(lambda: len(replica_ports(deployment)) == 2, 120, "it serves again")
            time.sleep(5)
        assert running.broken(since=killed) == []
        cut = running.broken()
        # HAProxy gives each of the two replicas three of the six.
        assert len(cut) == 3
        print(f"{len(cut)} of 6 streams in flight were cut: {sorted(set(cut))}")
        again = engines(deployment)
        assert cores_of(again[0]) & cores_of(again[1]) == set()
