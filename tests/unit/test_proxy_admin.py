"""Prevents: draining that ends too early, never, or without a word about what it cut."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.proxy_admin import drain, ongoing_requests

HEADER = "# pxname,svname,scur,smax\n"


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
                    replica = f"model,replica,{running},9\nmodel,BACKEND,{running},9\n"
                    rows = f"http_frontend,FRONTEND,9,9\n{replica}none,BACKEND,,\n"
                    connection.sendall((HEADER + rows).encode())

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
    assert drain(path, 30, said.append) is True
    assert server.commands[0] == "experimental-mode on; set var proc.draining bool(true)"
    assert said == ["waiting for 2 running requests", "waiting for 1 running requests"]


def test_draining_says_what_it_cuts_when_the_time_is_up(haproxy: Callable[[list[int]], tuple[Haproxy, Path]]) -> None:
    _, path = haproxy([4])
    said: list[str] = []
    assert drain(path, 0, said.append) is False
    assert said[-1] == "4 requests did not finish within 0 s and are cut"
