"""The processes that generate load, as the conductor sees them: this one, or Locust's workers."""

import time
from typing import Any, Protocol

import gevent

from loadtest._agent import Agent, Batch, Go
from loadtest._collector import Collector
from loadtest._errors import LoadTestError
from loadtest._run_plan import RunPlan

READY, GO, BATCH, STOP = "loadtest_ready", "loadtest_go", "loadtest_batch", "loadtest_stop"
PLAN_OPTION = "loadtest_plan"
"""An option of Locust's that the master sends to its workers with the users to spawn."""
READY_S = 60.0
LEAD_S = 0.5
"""From the word until the start, so that every process has it in time."""
MISSING = "missing"


class Crew(Protocol):
    """What a conductor needs of them."""

    def prepare(self, plan: RunPlan) -> None:
        """Tell the plan. Raises LoadTestError where this process itself cannot take part."""

    def go(self) -> tuple[float, int]:
        """Start all that are ready: the wall-clock time of the start, and their number. Raises LoadTestError."""

    def stop(self, drain_s: float | None) -> None:
        """End before the time."""

    def silent(self) -> set[int]:
        """Numbers of the processes from which nothing more can come."""


class LocalCrew:
    """This process alone."""

    def __init__(self, agent: Agent, api_key: str | None) -> None:
        self._agent = agent
        self._api_key = api_key

    def prepare(self, plan: RunPlan) -> None:
        if problem := self._agent.prepare(plan, self._api_key):
            raise LoadTestError(problem)

    def go(self) -> tuple[float, int]:
        started = time.time() + 0.05
        self._agent.go(Go(started, 0, 1))
        return started, 1

    def stop(self, drain_s: float | None) -> None:
        self._agent.stop(drain_s)

    def silent(self) -> set[int]:
        return set()


class RemoteCrew:
    """The workers of a master."""

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._runner = environment.runner
        self._ready: dict[str, str | None] = {}
        self._numbers: dict[str, int] = {}
        self.collector: Collector | None = None
        self._runner.register_message(READY, self._is_ready)
        self._runner.register_message(BATCH, self._delivered)

    def prepare(self, plan: RunPlan) -> None:
        self._ready, self._numbers = {}, {}
        # Locust sends every option that is not its own to the workers before their test_start.
        setattr(self._environment.parsed_options, PLAN_OPTION, plan.to_json())

    def go(self) -> tuple[float, int]:
        deadline = time.monotonic() + READY_S
        while not self._present() or set(self._present()) - set(self._ready):
            if time.monotonic() > deadline:
                break
            gevent.sleep(0.05)
        members = [client for client in self._present() if client in self._ready]
        for client in members:
            if problem := self._ready[client]:
                raise LoadTestError(problem)
        if not members:
            raise LoadTestError("no worker process is ready: start some with --worker, or use --processes")
        members.sort(key=self._runner.get_worker_index)
        self._numbers = {client: number for number, client in enumerate(members)}
        started = time.time() + LEAD_S
        for client, number in self._numbers.items():
            data = {"started_wall": started, "worker": number, "workers": len(members)}
            self._runner.send_message(GO, data, client)
        return started, len(members)

    def stop(self, drain_s: float | None) -> None:
        self._runner.send_message(STOP, {"drain_s": drain_s})

    def silent(self) -> set[int]:
        present = self._present()
        return {number for client, number in self._numbers.items() if client not in present}

    def _present(self) -> list[str]:
        return [client.id for client in self._runner.clients.all if client.state != MISSING]

    def _is_ready(self, environment: Any, msg: Any) -> None:
        self._ready[msg.node_id] = msg.data["problem"]

    def _delivered(self, environment: Any, msg: Any) -> None:
        batch: Batch = msg.data
        if self.collector is not None and batch["worker"] == self._numbers.get(msg.node_id):
            self.collector.take(batch)
