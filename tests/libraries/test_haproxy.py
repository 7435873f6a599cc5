"""Prevents: HAProxy refusing what we make of Ray's configuration, or answering anything but OpenAI's error object."""

import json
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from deploy.cluster import serve_environment
from deploy.proxy import write_launcher
from deploy.settings import Settings
from tests.live.deployment import eventually, free_port

Start = Callable[..., httpx.Client]
Replica = Callable[["type[Healthy]"], int]
LONGEST_SENT_AGAIN = 16384
"""HAProxy's buffer, in bytes: it can only send again what it still holds (Ray's ``RAY_SERVE_HAPROXY_TUNE_BUFSIZE``)."""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Start]:
    """Starts HAProxy on what Ray Serve writes for applications at the given prefixes, each with the given replicas."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig, ServerConfig
    from ray.serve.config import HTTPOptions

    started: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def start(*prefixes: str, replicas: tuple[int, ...] = ()) -> httpx.Client:
        port = free_port()
        config = HAProxyConfig(
            socket_path=str(tmp_path / "admin.sock"),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "server-state"),
            stats_port=free_port(),
            metrics_port=free_port(),
            http_options=HTTPOptions(host="127.0.0.1", port=port),
            retry_on=serve_environment(Settings.model_construct())["RAY_SERVE_HAPROXY_RETRY_ON"],
        )
        file = tmp_path / "haproxy.cfg"
        servers = [ServerConfig(f"replica{replica}", "127.0.0.1", replica) for replica in replicas]
        backends = {
            f"app{place}": BackendConfig(f"app{place}", prefix, servers=servers)
            for place, prefix in enumerate(prefixes)
        }
        HAProxyApi(config, backends, str(file))._generate_config_file_internal()
        command = [str(write_launcher(tmp_path / "haproxy")), "-db", "-f", str(file)]
        started.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}")
        clients.append(client)
        eventually(lambda: answers(client), 20, "HAProxy answers")
        return client

    yield start
    for client in clients:
        client.close()
    for process in started:
        process.kill()
        process.wait()


class Healthy(BaseHTTPRequestHandler):
    """A replica that answers everything, and keeps connections open."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(200)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.complete()

    def complete(self) -> None:
        """What it does when it has read a request for completions."""
        self.answer(200)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Dying(Healthy):
    """A replica that is gone when it has read a request for completions."""

    def complete(self) -> None:
        self.close_connection = True


class Told(Healthy):
    """A replica that answers 400 where it is told to close the connection."""

    def complete(self) -> None:
        self.answer(400 if self.headers["connection"] == "close" else 200)


@pytest.fixture
def replica() -> Iterator[Replica]:
    """Starts a replica of the kind and returns its port."""
    servers: list[ThreadingHTTPServer] = []

    def start(kind: type[Healthy]) -> int:
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), kind))
        threading.Thread(target=servers[-1].serve_forever).start()
        return servers[-1].server_port

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def all_is_read(connection: socket.socket) -> bool:
    """Whether the other end, on this machine, has read what was sent (proc_net_tcp.txt of Linux: ``rx_queue``)."""
    own, other = connection.getsockname()[1], connection.getpeername()[1]
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        if [int(end.partition(":")[2], 16) for end in (local, remote)] == [other, own]:
            return int(queues.partition(":")[2], 16) == 0
    return False


def answers(client: httpx.Client) -> bool:
    try:
        client.get("/")
    except httpx.TransportError:
        return False
    return True


@pytest.mark.parametrize(
    ("prefixes", "status", "code", "waits"),
    [
        ((), 503, "unavailable", True),
        (("/",), 503, "unavailable", True),
        (("/other",), 404, "not_found", False),
    ],
    ids=["no application yet", "no replica", "another application"],
)
def test_a_request_that_reaches_no_replica_gets_openais_error_object(
    proxy: Start, prefixes: tuple[str, ...], status: int, code: str, *, waits: bool
) -> None:
    answer = proxy(*prefixes).get("/v1/models", headers={"x-request-id": "mine"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"] == "mine"
    assert ("retry-after" in answer.headers) is waits


def test_a_request_whose_replica_dies_before_it_answers_goes_to_another(proxy: Start, replica: Replica) -> None:
    client = proxy("/", replicas=(replica(Dying), replica(Healthy)))
    # Half of them meet the dying one first.
    assert [client.post("/v1/completions", json={}).status_code for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("length", [1, LONGEST_SENT_AGAIN], ids=["no replica is left", "too long to be sent again"])
def test_a_request_whose_replica_dies_is_told_so_on_a_used_connection_too(
    proxy: Start, replica: Replica, length: int
) -> None:
    client = proxy("/", replicas=(replica(Dying),))
    assert client.get("/v1/models").status_code == 200
    answer = client.post("/v1/completions", content=b"x" * length)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "replica_lost")
    assert "retry-after" in answer.headers


def test_a_body_that_is_not_valid_http_gets_openais_error_object(proxy: Start, replica: Replica) -> None:
    client = proxy("/", replicas=(replica(Healthy),))
    with socket.create_connection((client.base_url.host, client.base_url.port), 10) as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}")
        # What HAProxy reads together with the headers gets its own page, which cannot be set.
        eventually(lambda: all_is_read(connection), 30, "HAProxy has read the headers")
        connection.sendall(b"no end of it")
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert re.search(rb"\r\nx-request-id: [0-9a-f-]{36}\r\n", head)
    assert json.loads(body)["error"]["code"] == "bad_request"


def test_no_replica_is_told_to_close_so_it_reads_the_rest_of_what_it_refuses(proxy: Start, replica: Replica) -> None:
    assert proxy("/", replicas=(replica(Told),)).post("/v1/completions", json={}).status_code == 200
