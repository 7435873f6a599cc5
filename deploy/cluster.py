"""The Ray cluster under a deployment: a local one of its own, or the one that ``RAY_ADDRESS`` names."""

import logging
import os
import secrets
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import StartError
from deploy.gateway.log_sink import FIFO_VARIABLE
from deploy.leases import SHARED_VARIABLE, Lease, lease_ports, user_directory
from deploy.machine import measure
from deploy.model.cache import compiled_directory
from deploy.proxy import BIND_VARIABLE, public_bind, write_launcher
from deploy.settings import Settings

LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 128 * 1024**2
"""Ray's object store carries control messages only; by default it would take 30 % of the machine's memory."""

ADMIN_SOCKET, METRICS_SOCKET = "a", "m"
LONGEST_BASE = 26
"""HAProxy's limit of 97 characters for a socket's path, less the run directory, Ray's 56-digit node id and the name."""

DEREGISTRATION_S = 5
"""A replica that goes away stays reachable this long, while HAProxy takes it off its list (Ray's default: 30)."""


@dataclass(frozen=True)
class RunDirectory:
    """Everything that one deployment writes: Ray's session, HAProxy's files, the logs. Short: sockets lie in it."""

    path: Path

    @classmethod
    def create(cls) -> "RunDirectory":
        """A new, private directory.

        Raises:
            StartError: the path is too long for HAProxy's sockets.
        """
        base = user_directory()
        if len(str(base)) > LONGEST_BASE:
            raise StartError(
                f"the temporary directory {base} has too long a path for sockets: set TMPDIR to a shorter one"
            )
        return cls(Path(tempfile.mkdtemp(prefix="r", dir=base)))

    @property
    def admin_socket(self) -> Path:
        """HAProxy's admin socket; Ray Serve puts it into a folder with the node's id for a name."""
        return next(self.path.glob(f"*/{ADMIN_SOCKET}"))

    @property
    def access_fifo(self) -> Path:
        """FIFO that the replicas' access log goes through."""
        return self.path / "access"

    @property
    def certificate(self) -> Path:
        """The file from which HAProxy reads its certificate and key, if it has any."""
        return self.path / "tls.pem"

    @property
    def logs(self) -> Path:
        """Ray's log directory, where replicas and engines write too."""
        return self.path / "session_latest" / "logs"

    def remove(self) -> None:
        """Delete it; what cannot be deleted stays."""
        shutil.rmtree(self.path, ignore_errors=True)


def serve_environment(settings: Settings) -> dict[str, str]:
    """What every process of the cluster must see, wherever it runs, for HAProxy to stream straight from the replicas.

    Ray reads these when its modules are imported, so they must be set before, in each process
    (``ray/serve/_private/constants.py``).
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        # A reload leaves the old HAProxy process to finish its streams; it must not cut them early.
        "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": str(int(settings.scaling.drain_timeout_s) + DEREGISTRATION_S),
        # A request whose replica died before it answered goes to another one, where HAProxy still holds all of it.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DEREGISTRATION_S),
        "RAYLLM_ENABLE_WORKER_PROCESS_SETUP_HOOK": "0",
        # vLLM's server does not block its event loop; a thread of its own would cost a hop for every chunk.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        # Replicas report their load this often; Ray's 10 s could miss a short `scaling.look_back_s` altogether.
        "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1",
        # An engine that is dead or hangs finishes nothing; Ray would wait for its streams as for a healthy one's.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": settings.log.engine_level.upper(),
    }


def local_environment(
    settings: Settings, run: RunDirectory, replica_ports: range, proxy_ports: range
) -> dict[str, str]:
    """``serve_environment`` plus what keeps several deployments on one machine apart, and off other interfaces."""
    metrics, statistics, fallback = map(str, proxy_ports)
    return serve_environment(settings) | {
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(write_launcher(run.path / "haproxy")),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(run.path / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(run.path / ADMIN_SOCKET),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(run.path),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(run.path / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(run.path / METRICS_SOCKET),
        "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
        "RAY_SERVE_HAPROXY_STATS_PORT": statistics,
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, len(measure().cores))),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(replica_ports.start),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(replica_ports.stop - 1),
        # The controller looks at its replicas this often. Ray's 0.1 s takes 3 % of a core, which the model needs.
        "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
        # Whoever reaches Ray's ports can run code; other users of this machine do not have this token.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        # Ray's default of 15 would let any other program push the engine and HAProxy off the cores.
        "RAY_worker_niceness": "0",
        # Ray then runs on 127.0.0.1 alone; its own name for this is "no multi-node cluster on a desktop"
        # (ray_constants.py).
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        # By default in the temporary directory; the first request would wait for the compiler after every start.
        "TORCHINDUCTOR_CACHE_DIR": str(compiled_directory(settings)),
        # torch keeps this header in the temporary directory all the same (``torch/_inductor/codecache.py``, 2.13), and
        # would compile it at every start though all that includes it is in the cache.
        "TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS": "0",
        # vLLM leaves a file for each engine in the temporary directory; this one goes with the deployment.
        "TMPDIR": str(run.path),
        FIFO_VARIABLE: str(run.access_fifo),
        SHARED_VARIABLE: str(user_directory()),
        BIND_VARIABLE: public_bind(
            settings.server.host, settings.server.port, run.certificate if settings.tls.enabled else None
        ),
    }


def start_local(settings: Settings, run: RunDirectory) -> tuple[range, Lease]:
    """Start a Ray cluster and Ray Serve on this machine; everything but the public port stays on loopback.

    Returns the replicas' ports and their lease, to be kept while the cluster runs.
    """
    ports, proxy_ports, held = lease_ports()
    os.environ.update(local_environment(settings, run, ports, proxy_ports))
    import ray

    ray.init(
        address="local",
        num_cpus=len(measure().cores),
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="mistral-serve",
        _temp_dir=str(run.path),
        _node_ip_address=LOOPBACK,
    )
    start_serve(LOOPBACK, settings.server.port)
    return ports, held


def connect(settings: Settings, address: str) -> None:
    """Connect to a running cluster and start Ray Serve there, unless it runs already."""
    environment = serve_environment(settings)
    os.environ.update(environment)
    import ray

    package = Path(__file__).resolve().parent
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        namespace="mistral-serve",
        runtime_env={"py_modules": [str(package)], "env_vars": environment},
    )
    start_serve(settings.server.host, settings.server.port)


def start_serve(host: str, port: int) -> None:
    """Start Ray Serve's controller and HAProxy."""
    from ray import serve

    options: dict[str, Any] = {"host": host, "port": port}
    serve.start(proxy_location="EveryNode", http_options=options)
