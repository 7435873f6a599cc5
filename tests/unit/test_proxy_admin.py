"""Prevents: draining that ends too early, never, or without a word about what it cut."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.proxy_admin import drain, ongoing_requests, replicas_up, requests_of_replaced

HEADER = "# pxname,svname,scur,status,act\n"
PORTS = range(20000, 20100)


class Haproxy:
    """Answers the admin socket's commands; each `show stat` finds the next of ``sessions`` running, then the last."""

    def __init__(self, path: Path, sessions: list[int]) -> None:
        self.sessions = sessions
        self.commands: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                command = connection.recv(4096).decode().strip()
                self.commands.append(command)
                if command == "show stat":
                    running = self.sessions.pop(0) if len(self.sessions) > 1 else self.sessions[0]
                    servers = f"model,one,{running},UP,1\nmodel,two,0,DOWN,1\nmodel,fallback,0,UP,0\n"
                    backends = f"model,BACKEND,{running},UP,1\nnone,BACKEND,,UP,0\n"
                    rows = f"http_frontend,FRONTEND,9,OPEN,\n{servers}{backends}"
                    connection.sendall((HEADER + rows).encode())
                elif command == "show info":
                    connection.sendall(b"Name: HAProxy\nPid: 1\n")

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Callable[[list[int]], tuple[Haproxy, Path]]]:
    started: list[Haproxy] = []

    def start(sessions: list[int]) -> tuple[Haproxy, Path]:
        started.append(Haproxy(tmp_path / "a", sessions))
        return started[-1], tmp_path / "a"

    yield start
    for server in started:
        server.close()


def test_only_backend_sessions_count_as_requests(haproxy: Callable[[list[int]], tuple[Haproxy, Path]]) -> None:
    _, path = haproxy([3])
    assert ongoing_requests(path) == 3


def test_draining_refuses_new_requests_first_and_waits_for_the_last(
    haproxy: Callable[[list[int]], tuple[Haproxy, Path]],
) -> None:
    server, path = haproxy([2, 2, 1, 0])
    said: list[str] = []
    assert drain(path, PORTS, 30, said.append) is True
    assert server.commands[0] == "experimental-mode on; set var proc.draining bool(true)"
    assert said == ["waiting for 2 running requests", "waiting for 1 running requests"]


def test_draining_says_what_it_cuts_when_the_time_is_up(haproxy: Callable[[list[int]], tuple[Haproxy, Path]]) -> None:
    _, path = haproxy([4])
    said: list[str] = []
    assert drain(path, PORTS, 0, said.append) is False
    assert said[-1] == "4 requests did not finish within 0 s and are cut"


def test_only_replicas_that_get_requests_count_as_up(haproxy: Callable[[list[int]], tuple[Haproxy, Path]]) -> None:
    _, path = haproxy([0])
    assert replicas_up(path) == 1


# A process called haproxy that holds one connection to a replica, as a replaced HAProxy does while a stream runs.
REPLACED = """
import ctypes, socket, sys, time
ctypes.CDLL(None).prctl(15, b"haproxy", 0, 0, 0)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("connected", flush=True)
time.sleep(60)
"""


def test_a_replaced_haproxy_counts_the_streams_it_still_finishes(
    haproxy: Callable[[list[int]], tuple[Haproxy, Path]],
) -> None:
    _, path = haproxy([0])
    with socket.create_server(("127.0.0.1", 0)) as replica:
        port = replica.getsockname()[1]
        old = subprocess.Popen([sys.executable, "-c", REPLACED, str(port)], stdout=subprocess.PIPE, text=True)
        try:
            assert old.stdout is not None
            assert old.stdout.readline() == "connected\n"
            assert requests_of_replaced(path, range(port, port + 1)) == 1
            assert requests_of_replaced(path, range(port + 1, port + 2)) == 0
        finally:
            old.kill()
            old.wait(timeout=10)
    assert requests_of_replaced(path, range(port, port + 1)) == 0
