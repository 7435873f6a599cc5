"""The life of one deployment, in ``serve.py``'s child process: start, say READY, wait for SIGTERM, drain, stop.

``python -m deploy.lifecycle PARENT_PID`` reads one JSON object from stdin: ``{"settings": …, "run_directory": …}``.
"""

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from deploy import access_fifo, rehearsal
from deploy.certificate_watch import CertificateWatch
from deploy.cluster import RunDirectory, connect, start_local
from deploy.errors import ServeError, StartError
from deploy.failure import cause_of
from deploy.own_http import FAILURES, ask
from deploy.processes import adopt_orphans, children, die_with_parent, end_descendants, reap_orphans
from deploy.proxy_admin import drain, replicas_up
from deploy.quota_actor import end_quota_actor
from deploy.replica_end import end_replicas
from deploy.settings import Settings

APPLICATION = "mistral-serve"
POLL_S = 0.25
logger = logging.getLogger("mistral-serve")


def configure_logging(settings: Settings) -> None:
    """Our own log lines on stderr, each with its time."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True)
    logging.getLogger().setLevel(settings.log.engine_level.upper())
    logger.setLevel(settings.log.level.upper())


def reachable_url(settings: Settings) -> str:
    """The server's address as a client on this machine writes it; a wildcard address is reached over loopback."""
    host = settings.server.host
    wildcard = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (compared with, not bound)
    host = wildcard.get(host, host)
    return f"{settings.tls.scheme}://{f'[{host}]' if ':' in host else host}:{settings.server.port}"


def healthy(url: str) -> bool:
    """Whether at least one replica answers through HAProxy."""
    try:
        with ask(f"{url}/health", timeout_s=5) as response:
            return bool(response.status == 200)
    except FAILURES:
        return False


def deploy(settings: Settings) -> None:
    """Hand the application to Ray Serve without waiting for it."""
    from ray import serve

    from deploy.app import application, on_this_cluster

    target = serve.RunTarget(application(on_this_cluster(settings)), name=APPLICATION, route_prefix="/")
    serve.run_many([target], wait_for_applications_running=False)


def all_routed(settings: Settings, run: RunDirectory) -> bool:
    """Whether HAProxy sends requests to every replica: Ray Serve tells it of them a moment after they run."""
    return replicas_up(run.admin_socket) >= settings.scaling.least_replicas


def wait_until_ready(settings: Settings, run: RunDirectory, *, local: bool) -> None:
    """Return when every replica would answer a request; on a shared cluster, when one would.

    Raises:
        StartError: a replica failed, with the cause; or the time is up.
    """
    from ray import serve

    url = reachable_url(settings)
    started = time.monotonic()
    said = 0.0
    while True:
        status = serve.status().applications[APPLICATION]
        if status.status == "RUNNING" and healthy(url) and (not local or all_routed(settings, run)):
            return
        if cause := cause_of(status, run.logs):
            raise StartError(cause)
        waited = time.monotonic() - started
        if waited > settings.server.start_timeout_s:
            raise StartError(
                f"the model was not ready after {settings.server.start_timeout_s:.0f} s: "
                "raise server.start_timeout_s, or look for what it waits for in the log directory"
            )
        if waited - said >= 10:
            said = waited
            logger.info("loading the model, %.0f s so far", waited)
        time.sleep(POLL_S)


def serve_until_stopped(settings: Settings, directory: RunDirectory) -> None:
    """Start everything, print READY, wait for SIGTERM, then let running requests finish."""
    address = os.environ.get("RAY_ADDRESS")
    watch = None
    if address:
        logger.info("connecting to the Ray cluster at %s", address)
        connect(settings, address)
        local = None
    else:
        logger.info("starting Ray on this machine")
        if settings.tls.enabled:
            watch = CertificateWatch(settings.tls, directory.certificate, lambda: directory.admin_socket)
        local = start_local(settings, directory)
    # Ray has put a handler of its own in the place of ours.
    signal.signal(signal.SIGTERM, end_at_once)
    stop = threading.Event()
    deploy(settings)
    logger.info("loading the model %s", settings.model)
    wait_until_ready(settings, directory, local=local is not None)
    if settings.rehearse:
        rehearsal.report(reachable_url(settings), str(settings.served_model_name), logger.info)
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    replicas = settings.scaling.least_replicas
    print(f"READY {reachable_url(settings)}/v1 model={settings.served_model_name} replicas={replicas}", flush=True)
    own = children()
    while not stop.wait(timeout=1):
        reap_orphans(own)
        if watch is not None:
            watch.refresh()
    logger.info("stopping: new requests are refused")
    if local is None:
        _leave_cluster()
    else:
        replica_ports, lease = local
        drain(directory.admin_socket, replica_ports, settings.server.drain_timeout_s, logger.info)
        end_replicas(replica_ports)
        lease.release()
    logger.info("stopped")


def _leave_cluster() -> None:
    from ray import serve

    serve.delete(APPLICATION)
    end_quota_actor(APPLICATION)


def end_at_once(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM before the model is ready: there is no request to lose."""
    end_descendants()
    os._exit(0)


def run(message: dict[str, Any]) -> int:
    """Run the deployment that ``message`` describes; returns the exit code. Every descendant is ended afterwards."""
    settings = Settings.model_validate(message["settings"])
    configure_logging(settings)
    try:
        directory = RunDirectory(Path(message["run_directory"]))
        with access_fifo.reader(directory.access_fifo):
            serve_until_stopped(settings, directory)
    except ServeError as error:
        logger.error("%s", error)  # noqa: TRY400 (a person reads this: no traceback)
        return error.exit_code
    except SystemExit:
        # Ray's own SIGTERM handler, while Ray starts.
        return 0
    except Exception as error:
        last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        logger.error("starting failed: %s", last_line)  # noqa: TRY400 (a person reads this: no traceback)
        logger.debug("where it failed", exc_info=True)
        return StartError.exit_code
    finally:
        end_descendants()
    return 0


def main() -> None:
    """Entry point of the child process."""
    adopt_orphans()
    signal.signal(signal.SIGTERM, end_at_once)
    die_with_parent(int(sys.argv[1]))
    message = json.load(sys.stdin)
    code = run(message)
    if code == 0:
        # serve.py does this too, unless it was killed.
        RunDirectory(Path(message["run_directory"])).remove()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not sys.exit: Ray's exit handler would wait for a cluster that is gone.
    os._exit(code)


if __name__ == "__main__":
    main()
