"""Ends replicas so that they write down all that they know of requests that have ended."""

from collections.abc import Iterator
from contextlib import suppress

import psutil

from deploy.cluster import LOOPBACK
from deploy.own_http import FAILURES, ask

ANSWER_S = 5.0
"""How long a replica may take to say that it runs."""
END_S = 10.0
"""How long replicas may take to write what they know, twice what the gateway waits for a disk that hangs; then they are
left to SIGKILL."""


def end_replicas(ports: range) -> None:
    """End the descendants of this process that listen on some of ``ports``; their requests have ended.

    A replica that answers has come to the end of those requests too: its event loop takes them in their order. On
    SIGTERM a worker of Ray 2.60 runs Python's exit handlers (``ray/_private/worker.py``), and with these the gateway
    writes access and usage log and sends its traces.
    """
    replicas = dict(_listening(ports))
    for port in replicas:
        with suppress(*FAILURES):
            ask(f"http://{LOOPBACK}:{port}/health", ANSWER_S).close()
    for replica in replicas.values():
        with suppress(psutil.NoSuchProcess):
            replica.terminate()
    psutil.wait_procs(list(replicas.values()), timeout=END_S)


def _listening(ports: range) -> Iterator[tuple[int, psutil.Process]]:
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            for connection in process.net_connections(kind="tcp"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port in ports:
                    yield connection.laddr.port, process
