"""The Ray Serve deployment: takes its cores, prepares the model's files on its node, and serves vLLM's own HTTP app.

This module imports no vLLM, so that whoever deploys it starts quickly; the replica imports it when it starts.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from typing import Any

from deploy import compiler, engine_process
from deploy.gateway.stack import Gateway
from deploy.leases import SHARED_VARIABLE, lease_cores
from deploy.machine import measure
from deploy.quota_actor import book_for
from deploy.serve_host import listening_at, serve_host
from deploy.serve_log import serve_log_kept
from deploy.settings import HardwareSettings, Settings

logger = logging.getLogger("ray.serve")


def keep_to_loopback() -> None:
    """Make Ray Serve's gRPC server in this replica listen on loopback.

    Ray 2.60 starts it on every interface, whatever the node's address (``ray/serve/_private/replica.py``), and
    whoever reaches it can run code here. Only for a cluster on one machine: between nodes the server must be
    reachable.
    """
    from ray.serve._private import replica as internals

    listen = internals.add_port_to_grpc_server
    internals.add_port_to_grpc_server = lambda server, address: listen(server, address.replace("[::]", "127.0.0.1"))


def leave_requests_to_the_app() -> None:
    """Keep Ray Serve from ending requests by itself.

    Ray 2.60 lets a client set a time limit, and turn off the watch for its own going away, with headers of Ray's; the
    answer to the first is plain text about Ray (``ray/serve/_private/replica.py``, ``_direct_ingress_asgi``). The app
    has a time limit of its own and notices clients that go away, and without Ray's watch a request needs two tasks
    fewer.
    """
    from ray.serve._private import replica as internals

    internals.parse_request_timeout_header = lambda headers, default_timeout_s: None
    internals.parse_disconnect_disabled_header = lambda headers: True


class ModelReplica:
    """One replica of the model, on cores of its own."""

    # Ray Serve awaits it; mypy knows synchronous constructors only.
    async def __init__(self, settings: Mapping[str, Any]) -> None:  # type: ignore[misc]
        if SHARED_VARIABLE in os.environ:
            keep_to_loopback()
        leave_requests_to_the_app()
        resolved = listening_at(await serve_host(), Settings.model_validate(settings))
        # First, because a file that cannot be used should not cost the minutes in which a model loads.
        gateway = Gateway(resolved, book_for(resolved))
        if resolved.hardware.device == "cpu":
            if not compiler.can_compile():
                compiler.do_without()
            self._take_cores(resolved.hardware)
        self._server = await self._start(resolved, gateway)

    def _take_cores(self, hardware: HardwareSettings) -> None:
        threads = hardware.cores_per_replica or 1
        if not hardware.pin_cores:
            engine_process.start(threads)
            return
        self._cores = lease_cores(threads, measure().cores)
        os.sched_setaffinity(0, self._cores.ids)
        engine_process.start(threads, self._cores.ids)

    async def _start(self, settings: Settings, gateway: Gateway) -> Any:
        with serve_log_kept():
            from deploy.llm import llm_config
            from deploy.server import MistralServer
        from deploy.model import prepare

        prepared = await asyncio.to_thread(prepare, settings, logger.info)
        server = MistralServer.sync_init(llm_config(settings, prepared))
        server.settings, server.gateway = settings, gateway
        await server.start()
        return server

    async def __serve_build_asgi_app__(self) -> Any:
        return await self._server.__serve_build_asgi_app__()

    async def check_health(self) -> None:
        """Raise when the engine is dead, so that Ray Serve replaces this replica."""
        await self._server.check_health()
