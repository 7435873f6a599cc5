"""Prevents: HAProxy refusing what we make of Ray's configuration, or answering anything but OpenAI's error object."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deploy.proxy import write_launcher
from tests.live.deployment import eventually, free_port

Start = Callable[..., httpx.Client]


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Start]:
    """Starts HAProxy on what Ray Serve writes for applications at the given prefixes, none of which has a replica."""
    from ray.serve._private.haproxy import BackendConfig, HAProxyApi, HAProxyConfig
    from ray.serve.config import HTTPOptions

    started: list[subprocess.Popen[bytes]] = []
    clients: list[httpx.Client] = []

    def start(*prefixes: str) -> httpx.Client:
        port = free_port()
        config = HAProxyConfig(
            socket_path=str(tmp_path / "admin.sock"),
            server_state_base=str(tmp_path),
            server_state_file=str(tmp_path / "server-state"),
            stats_port=free_port(),
            metrics_port=free_port(),
            http_options=HTTPOptions(host="127.0.0.1", port=port),
        )
        file = tmp_path / "haproxy.cfg"
        backends = {f"app{place}": BackendConfig(f"app{place}", prefix) for place, prefix in enumerate(prefixes)}
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
