"""``serve.py``: settings from flags, the plan, then the deployment. Imports neither ray nor vllm."""

import errno
import importlib.util
import os
import signal
import socket
import sys
from collections.abc import Sequence

from deploy import certificate, engine_arguments
from deploy.absolute_paths import with_absolute_paths
from deploy.errors import ServeError, UsageError
from deploy.gateway import stack
from deploy.leases import free_cores
from deploy.loading import load
from deploy.machine import Machine, measure
from deploy.model import inspect, prepare
from deploy.plan import Plan, make_plan, render
from deploy.settings import Settings, option


class CommandLine(Settings):
    """Serve a Mistral model over the OpenAI API, on vLLM and Ray Serve."""

    dry_run: bool = option(False, "Print the plan as YAML and start nothing.", flag="dry-run")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``serve.py``; returns 0 after a clean stop, 1 when starting failed, 2 for a mistake in flags."""
    try:
        settings = load(argv=sys.argv[1:] if argv is None else list(argv), settings_class=CommandLine)
        engine_arguments.check(settings)
        if settings.dry_run:
            print(render(plan_for(settings, measure(), starting=False)), end="")
            return 0
        return start(settings)
    except ServeError as error:
        print(f"serve.py: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 0


def plan_for(settings: Settings, machine: Machine, *, starting: bool) -> Plan:
    """The plan for these settings, on this machine or on the cluster that RAY_ADDRESS names."""
    return make_plan(settings, inspect(settings), machine, cluster="RAY_ADDRESS" in os.environ, starting=starting)


def start(settings: Settings) -> int:
    """Check, prepare the model with progress on stderr, then serve until stopped."""
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())
    settings = with_absolute_paths(settings)
    check_engine_installed()
    machine = measure()
    plan = plan_for(settings, machine, starting=True)
    engine_arguments.check_values(settings)
    # On a cluster, files and ports are the nodes'.
    local = "RAY_ADDRESS" not in os.environ
    if local:
        check_port(settings.server.host, settings.server.port)
    else:
        certificate.refuse_on_cluster(settings)
    stack.check(settings)
    if local:
        stack.check_files(settings)
        for warning in certificate.check(settings):
            print(f"warning: {warning}", file=sys.stderr)
        check_cores(plan, machine)
        prepare(settings, lambda text: print(text, file=sys.stderr, flush=True))
        # What could not be known before a download is known now.
        plan = plan_for(settings, machine, starting=True)
    announce(settings, plan)
    from deploy.supervisor import supervise

    return supervise(resolve(settings, plan))


def _interrupt() -> None:
    raise KeyboardInterrupt


def announce(settings: Settings, plan: Plan) -> None:
    """Say on stderr what is going to be served, and what the plan warns of."""
    profile = f" with profile {settings.profile}" if settings.profile else ""
    low, high = plan.replicas_min, plan.replicas_max
    count = f"{low} to {high} replicas" if high > low else f"{low} replica{'s' if low > 1 else ''}"
    place = "CPU" if plan.device == "cpu" else "GPU"
    print(f"serving {plan.source.name}{profile}: {count} on the {place}", file=sys.stderr)
    if settings.rehearse:
        print(render(plan), file=sys.stderr, end="")
    else:
        for warning in plan.warnings:
            print(f"warning: {warning}", file=sys.stderr)


def resolve(settings: Settings, plan: Plan) -> Settings:
    """The settings with everything the plan decided, so that every replica gets what was planned."""
    hardware = settings.hardware.model_copy(
        update={"device": plan.device, "cores_per_replica": plan.cores_per_replica or None}
    )
    vllm = settings.vllm.model_copy(
        update={
            "dtype": plan.settings.vllm.dtype,
            "max_model_len": plan.max_model_len,
            "kv_cache_gib": None if plan.kv_cache_bytes is None else plan.kv_cache_bytes / 1024**3,
        }
    )
    return settings.model_copy(update={"hardware": hardware, "vllm": vllm, "served_model_name": plan.source.name})


def check_port(host: str, port: int) -> None:
    """Raise ``UsageError`` when the address cannot be listened on."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, _, _, address = found[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(
                f"port {port} is taken on {host}: stop what listens there, or choose another with --port"
            ) from None
        raise UsageError(
            f"cannot listen on {host}:{port} ({error.strerror}): choose another --host or --port"
        ) from None


def check_cores(plan: Plan, machine: Machine) -> None:
    """Raise ``UsageError`` when another deployment on this machine holds the cores that the first replicas need."""
    needed = plan.cores_per_replica * plan.replicas_min
    if plan.device == "cpu" and (free := free_cores(machine.cores)) < needed:
        raise UsageError(
            f"{needed} cores are needed but {free} are free, because another deployment on this machine holds the rest"
            ": stop it, or give both fewer with --hardware.cores-per-replica"
        )


def check_engine_installed() -> None:
    """Raise ``UsageError`` when ray or vllm is not installed in this Python."""
    missing = [name for name in ("ray", "vllm") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"{' and '.join(missing)} not installed in {sys.executable}: run `make setup`, or `make serve`"
        )
