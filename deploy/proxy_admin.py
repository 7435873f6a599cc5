"""HAProxy's admin socket: stop taking new requests, and count the running ones (HAProxy management guide, 9.3)."""

import contextlib
import csv
import io
import socket
import time
from collections.abc import Callable
from pathlib import Path

import psutil

from deploy.proxy import DRAINING

SOCKET_TIMEOUT_S = 5.0


def command(path: Path, text: str) -> str:
    """Send one command line and return HAProxy's whole answer.

    Raises:
        OSError: nobody listens on the socket, or the answer does not come within 5 s.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(SOCKET_TIMEOUT_S)
        connection.connect(str(path))
        connection.sendall(text.encode() + b"\n")
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode()


def refuse_new_requests(path: Path) -> None:
    """Answer every new request with 503 from now on; running ones go on."""
    command(path, f"experimental-mode on; set var {DRAINING} bool(true)")


def replace_certificate(path: Path, bundle: Path, content: bytes) -> str | None:
    """Serve ``content`` in place of the certificate that was read from the file ``bundle``; connections stay open.

    Returns what HAProxy found wrong with it; it then serves the old one on. ``None`` when it took it.
    """
    # An empty line would end the command (HAProxy management guide, 9.3, "set ssl cert").
    lines = [line for line in content.decode("latin-1").splitlines() if line.strip()]
    answer = command(path, f"set ssl cert {bundle} <<\n" + "\n".join(lines) + "\n")
    if answer.startswith("Transaction"):
        answer = command(path, f"commit ssl cert {bundle}")
        if "Success!" in answer:
            return None
        command(path, f"abort ssl cert {bundle}")
    return " ".join(answer.split())


def _statistics(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(command(path, "show stat").lstrip("# "))))


def replicas_up(path: Path) -> int:
    """Replicas that HAProxy sends requests to; Ray's fallback proxy, a backup server, does not count."""
    return sum(row["act"] == "1" and row["status"] == "UP" and row["svname"] != "BACKEND" for row in _statistics(path))


def ongoing_requests(path: Path) -> int:
    """Requests that replicas are working on for this HAProxy process: the sessions of all backends."""
    return sum(int(row["scur"] or 0) for row in _statistics(path) if row["svname"] == "BACKEND")


def requests_of_replaced(path: Path, replica_ports: range) -> int:
    """Requests that HAProxy processes still finish after a reload put a new one in their place.

    Their admin sockets are gone, so their connections to replicas are counted; each lasts for one request.
    """
    current = int(next(line for line in command(path, "show info").splitlines() if line.startswith("Pid: "))[5:])
    count = 0
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.name() == "haproxy" and process.pid != current:
                connections = process.net_connections(kind="tcp")
                count += sum(bool(c.raddr) and c.raddr.port in replica_ports for c in connections)
    return count


def drain(path: Path, replica_ports: range, timeout_s: float, progress: Callable[[str], None]) -> bool:
    """Refuse new requests and wait until the running ones have finished.

    Returns whether all of them did within ``timeout_s`` seconds.
    """
    refuse_new_requests(path)
    deadline = time.monotonic() + timeout_s
    reported = 0
    while (left := ongoing_requests(path) + requests_of_replaced(path, replica_ports)) > 0:
        if time.monotonic() > deadline:
            progress(f"{left} requests did not finish within {timeout_s:.0f} s and are cut")
            return False
        if left != reported:
            progress(f"waiting for {left} running requests")
            reported = left
        time.sleep(0.1)
    return True
