"""Prevents: `serve run`, the Serve config file and RAY_ADDRESS drifting from what `python serve.py` does.

One Ray cluster of the test's own serves all three; Ray's and the children's processes are ended by their ids.
"""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
import psutil
import pytest
import yaml

from deploy.cluster import serve_environment
from deploy.settings import Settings
from tests.live.deployment import ROOT, Deployment, eventually, free_port

pytestmark = pytest.mark.live
BIN = Path(sys.executable).parent
BODY = {
    "model": "demo",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
    "max_tokens": 20,
}


@dataclass(frozen=True)
class Cluster:
    port: int
    environment: dict[str, str]


def cluster_environment(folder: Path) -> dict[str, str]:
    """The environment that the guide names for every node of a cluster, here with HAProxy's files in ``folder``."""
    environment = (
        os.environ | serve_environment(Settings.model_construct()) | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    )
    environment["RAY_SERVE_HAPROXY_CONFIG_FILE_LOC"] = str(folder / "haproxy.cfg")
    environment["PYTHONPATH"] = str(ROOT)
    environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment.pop("RAY_ADDRESS", None)
    return environment


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A Ray cluster as an operator starts it: `ray start --head`, with the environment that the guide names."""
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("ray")
    environment = cluster_environment(folder)
    command = [
        str(BIN / "ray"),
        "start",
        "--head",
        "--block",
        f"--port={address.rpartition(':')[2]}",
        "--num-cpus=2",
        "--include-dashboard=false",
    ]
    command += ["--disable-usage-stats"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family = psutil.Process(process.pid)
    try:
        yield Cluster(free_port(), environment | {"RAY_ADDRESS": address})
    finally:
        remains = [family, *family.children(recursive=True)]
        for member in remains:
            if member.is_running():
                member.kill()
        psutil.wait_procs(remains, timeout=20)


def paris(url: str) -> str:
    """The answer, or what went wrong, as text."""
    try:
        return httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=60).text
    except httpx.HTTPError as error:
        return str(error)


def test_serve_py_deploys_onto_the_cluster_that_ray_address_names(cluster: Cluster) -> None:
    deployment = Deployment(port=cluster.port, environment=cluster.environment)
    try:
        assert deployment.wait_ready() == f"READY http://127.0.0.1:{deployment.port}/v1 model=demo replicas=1"
        assert "Paris" in paris(deployment.url)
    finally:
        assert deployment.stop() == 0
    eventually(lambda: "Paris" not in paris(deployment.url), 60, "the application leaves the cluster")


@contextmanager
def serve_run(
    *arguments: str, environment: dict[str, str], errors: int | IO[bytes] = subprocess.DEVNULL
) -> Iterator[None]:
    """`serve run` until the block ends; Ctrl-C then shuts Ray Serve down on the cluster."""
    command = [str(BIN / "serve"), "run", *arguments]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=errors)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=90)


def test_serve_run_takes_the_application_builder_with_our_settings(cluster: Cluster) -> None:
    # Ray Serve keeps running on the cluster, on the port where the test before started it.
    url = f"http://127.0.0.1:{cluster.port}"
    with serve_run("deploy.app:build_app", "profile=demo", "vllm.max_model_len=2048", environment=cluster.environment):
        eventually(lambda: "Paris" in paris(url), 200, "the model answers")
        models = httpx.get(f"{url}/v1/models", timeout=30).json()
    assert models["data"][0]["max_model_len"] == 2048


def test_serve_run_takes_the_config_file(cluster: Cluster, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    port = free_port()
    config["http_options"]["port"] = port
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    with serve_run(str(tmp_path / "serve.yaml"), environment=cluster.environment):
        eventually(lambda: "Paris" in paris(f"http://127.0.0.1:{port}"), 200, "the model answers")


def test_ray_serve_that_listens_beyond_loopback_needs_keys(cluster: Cluster, tmp_path: Path) -> None:
    config = yaml.safe_load((ROOT / "configs" / "serve.yaml").read_text())
    config["http_options"] |= {"host": "0.0.0.0", "port": free_port()}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    log = tmp_path / "log"
    with (
        log.open("wb") as errors,
        serve_run(str(tmp_path / "serve.yaml"), environment=cluster.environment, errors=errors),
    ):
        eventually(lambda: "server.host is 0.0.0.0" in log.read_text(errors="replace"), 200, "the replica refuses")
