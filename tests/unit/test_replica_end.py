"""Prevents: a replica that is killed at the end of a deployment before it wrote down what its last requests used."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy import replica_end
from deploy.replica_end import end_replicas
from tests.live.deployment import free_port

# Writes to a file what it was asked, and what it writes at its end; "deaf" does neither.
REPLICA = """
import atexit, http.server, pathlib, signal, sys, time

port, path, deaf = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3:] == ["deaf"]

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path.write_text(self.path)
        self.send_response(503)
        self.end_headers()

server = http.server.HTTPServer(("127.0.0.1", port), Handler)
signal.signal(signal.SIGTERM, signal.SIG_IGN if deaf else lambda *_: sys.exit(1))
atexit.register(lambda: path.write_text(path.read_text() + " and the end"))
print("listens", flush=True)
time.sleep(60) if deaf else server.serve_forever()
"""


@contextmanager
def replica(port: int, path: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", REPLICA, str(port), str(path), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "listens\n"
        yield process
    finally:
        process.kill()
        process.wait(timeout=10)


def test_a_replica_is_asked_whether_it_runs_and_then_writes_at_its_end(tmp_path: Path) -> None:
    port = free_port()
    with replica(port, tmp_path / "log") as process:
        end_replicas(range(port, port + 1))
        assert process.poll() is not None
    assert (tmp_path / "log").read_text() == "/health and the end"


def test_other_processes_are_left_alone(tmp_path: Path) -> None:
    port = free_port()
    with replica(port, tmp_path / "log") as process:
        end_replicas(range(port + 1, port + 2))
        assert process.poll() is None
    assert not (tmp_path / "log").exists()


def test_one_that_neither_answers_nor_ends_is_waited_for_no_longer_than_it_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replica_end, "ANSWER_S", 0.1)
    monkeypatch.setattr(replica_end, "END_S", 0.1)
    port = free_port()
    with replica(port, tmp_path / "log", "deaf") as process:
        end_replicas(range(port, port + 1))
        assert process.poll() is None
