"""Ray Serve LLM's server and engine as a replica runs them: no needless process, and the place for the gateway.

On a CPU vLLM insists on a worker process beside the engine process, because OpenMP reads its thread binding once,
when a process starts (``vllm/platforms/cpu.py``, ``check_and_update_config``). Our engine process is forked from the
server that ``deploy.engine_process`` starts with that environment, so the model runs inside the engine process itself.
That saves starting one Python process and a hop through shared memory in every step.
"""

import logging
import multiprocessing
from collections.abc import Callable
from typing import Any

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve.llm.deployment import LLMServer

from deploy.capacity import capacity_of
from deploy.gateway.admission import Admission
from deploy.gateway.request import current
from deploy.gateway.stack import Gateway
from deploy.metered_engine import meter
from deploy.settings import Settings


class FilesAreLocal(CallbackBase):  # type: ignore[misc]  # ray is untyped
    """Tells Ray Serve LLM that the model is on this node already, so that it starts no download worker."""

    async def on_before_node_init(self) -> None:
        """Skip Ray's own download: ``deploy.model.prepare`` has put the files here."""
        self.ctx.run_init_node = False


def fork_engine_process() -> None:
    """Make vLLM fork its engine process from the server of ``deploy.engine_process``; by itself it would spawn one."""
    from vllm.v1.engine import utils

    utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")


class OfNoFaultyRequest(logging.Filter):
    """Drops the stacks that vLLM logs of requests that are wrong: they are answered, and the access log has them.

    Once the engine is dead, vLLM fails on every request before it asks the engine, and nothing is dropped.
    """

    def __init__(self, engine_is_dead: Callable[[], bool]) -> None:
        super().__init__()
        self._engine_is_dead = engine_is_dead

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is to be written."""
        request = current()
        of_faulty = request is not None and request.is_faulty and not self._engine_is_dead()
        return not (record.exc_info and of_faulty)


async def compile_sampler(client: Any) -> None:
    """Sample one token, so that no user waits while torch compiles what vLLM's sampler compiles at its first use.

    On a CPU that is random sampling and log probabilities (``deploy.compiler``).
    """
    from vllm import SamplingParams

    parameters = SamplingParams(max_tokens=1, temperature=1.0, logprobs=1)
    async for _ in client.generate({"prompt_token_ids": [0]}, parameters, "warm-up"):
        pass


class ReplicaEngine(VLLMEngine):  # type: ignore[misc]  # ray is untyped
    """vLLM's engine; a CPU replica without tensor parallelism runs its model in the engine process."""

    def _prepare_engine_config(self, callback_ctx: Any) -> Any:
        engine_args, frontend_args, config = super()._prepare_engine_config(callback_ctx)
        parallel = config.parallel_config
        if config.device_config.device_type == "cpu" and parallel.world_size == 1:
            parallel.distributed_executor_backend = "uni"
            fork_engine_process()
        return engine_args, frontend_args, config

    async def check_health(self) -> None:
        """Raise when the engine is dead; wait as long as it does not answer.

        vLLM's own check (``v1/engine/async_llm.py``) notices an engine that ended, not one that hangs. The engine
        answers between two steps, and Ray Serve replaces the replica after three checks in a row that took too long
        (``scaling.health_check_timeout_s``).
        """
        await super().check_health()
        await self.client.is_sleeping()

    @property
    def client(self) -> Any:
        """vLLM's ``AsyncLLM``, once the engine has started."""
        return self._engine_client


class MistralServer(LLMServer):  # type: ignore[misc]  # ray is untyped
    """vLLM's OpenAI server around one engine. The replica sets ``settings`` and ``gateway`` before it starts."""

    _default_engine_cls = ReplicaEngine
    settings: Settings
    gateway: Gateway
    _admission: Admission | None = None

    async def __serve_build_asgi_app__(self) -> Any:
        app = await super().__serve_build_asgi_app__()
        return self.gateway.around(app, self._llm_config.model_id, self._admission, self._engine_is_dead)

    def _engine_is_dead(self) -> bool:
        return bool(self.engine.client.errored)

    async def _start_engine(self) -> None:
        # Without Ray Serve LLM's telemetry, which would start an actor of its own in every cluster.
        await self.engine.start()
        client, settings = self.engine.client, self.settings
        if client.vllm_config.device_config.device_type == "cpu":
            await compile_sampler(client)
        if settings.admission.enabled:
            self._admission = Admission(capacity_of(client.vllm_config), settings.admission)
        for handler in logging.getLogger("vllm").handlers:
            handler.addFilter(OfNoFaultyRequest(self._engine_is_dead))
        meter(client, self._admission, settings.limits if settings.limits.enabled else None)
