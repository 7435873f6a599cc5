"""Prevents: requests cut by Ctrl-C, processes and ports left behind, one deployment taking another down,
a silent crash.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.gateway.usage_files import UsageLine
from deploy.leases import user_directory
from deploy.model import prepare
from tests.live.deployment import ROOT, Deployment, assert_gone, eventually, free_port, port_is_free
from tests.live.streams import start_stream

pytestmark = pytest.mark.live
STORY = "Once upon a time, in a village by the sea,"
TOKENS = 200
"""Of a stream that is still running when a fast server has begun to drain."""
DRAIN_S = 90
"""So that on a slow server the stream ends before it is cut."""


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    """A ready deployment; whatever a test does to it, nothing of it outlives the test."""
    before = engine_files()
    flags = ("--usage.directory", str(tmp_path), "--server.drain-timeout-s", str(DRAIN_S))
    # Nobody is there: what a deployment asks of itself must not go through the proxy of the environment.
    running = Deployment(*flags, environment={"http_proxy": f"http://127.0.0.1:{free_port()}"})
    family = []
    try:
        running.wait_ready()
        family = running.family()
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()
        assert_gone(family)
        assert port_is_free(running.port)
        assert engine_files() <= before


def engine_files() -> set[Path]:
    """Files that vLLM's engines left in the temporary directory."""
    return set(Path(tempfile.gettempdir()).glob("vllm*"))


def sampled_tokens(deployment: Deployment) -> float:
    page = httpx.get(f"{deployment.url}/metrics", timeout=30).text
    return sum(float(line.split()[-1]) for line in page.splitlines() if line.startswith("vllm:generation_tokens_total"))


def run_directories() -> set[Path]:
    return set(user_directory().glob("r*"))


def test_sigint_refuses_new_requests_finishes_the_running_stream_and_exits_with_0(
    deployment: Deployment, tmp_path: Path
) -> None:
    assert deployment.stdout[-1] == f"READY http://127.0.0.1:{deployment.port}/v1 model=demo replicas=1"
    assert sampled_tokens(deployment) == 1, "the sampler was not compiled before READY"
    # Made before: loading certificates takes seconds while the engine has the cores.
    with httpx.Client(base_url=deployment.url, timeout=60) as kept_alive:
        (replica,) = deployment.named(r"^ray::ServeReplica")
        stream, thread = start_stream(deployment.url, STORY, max_tokens=TOKENS)
        assert kept_alive.get("/health").status_code == 200
        deployment.process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 10
        while (answer := kept_alive.get("/health")).status_code == 200 and time.monotonic() < deadline:
            time.sleep(0.05)
        refused = kept_alive.post("/v1/completions", json={"model": "demo", "prompt": "Hi", "max_tokens": 1})
    assert not stream.done, "the stream was too short to observe draining"
    assert answer.status_code == refused.status_code == 503
    assert refused.json()["error"]["code"] == "stopping"
    assert int(refused.headers["retry-after"]) > 0
    thread.join(timeout=DRAIN_S)
    # A replica that gets no core for longer than its logs wait for more to write.
    with suppress(psutil.NoSuchProcess):
        replica.suspend()
        time.sleep(3)
        replica.resume()
    assert (stream.error, stream.done, stream.tokens) == ("", True, TOKENS)
    assert deployment.wait() == 0
    assert deployment.stderr[-1].endswith("stopped")
    assert any("access INFO    200 POST   /v1/completions" in line for line in deployment.stderr)
    used = [
        UsageLine.model_validate_json(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()
    ]
    assert [(line.status, line.completion_tokens) for line in used if line.final] == [(200, TOKENS)]


def test_a_second_deployment_is_told_why_not_and_a_second_sigint_ends_the_first_now(deployment: Deployment) -> None:
    same_port = [sys.executable, str(ROOT / "serve.py"), "--port", str(deployment.port)]
    refused = subprocess.run(same_port, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert f"port {deployment.port} is taken" in refused.stderr
    other_port = subprocess.run(
        [*same_port[:2], "--port", "0"], capture_output=True, text=True, timeout=60, check=False
    )
    assert other_port.returncode == 2
    second = Deployment()
    assert second.wait(timeout_s=60) == 2
    assert "another deployment on this machine holds the rest" in second.stderr[-1]
    assert httpx.get(f"{deployment.url}/health").status_code == 200

    stream, thread = start_stream(deployment.url, STORY, max_tokens=4000)
    deployment.process.send_signal(signal.SIGINT)
    # Two signals that are sent before the first is looked at are one.
    eventually(lambda: any("new requests are refused" in line for line in deployment.stderr), 60, "it is stopping")
    assert deployment.process.poll() is None
    deployment.process.send_signal(signal.SIGINT)
    assert deployment.wait(timeout_s=15) == 130
    thread.join(timeout=15)
    assert stream.error != ""


def test_killing_serve_py_itself_leaves_no_process_and_no_port(deployment: Deployment) -> None:
    family = deployment.family()
    assert len(family) > 5
    arguments = deployment.named("gcs_server")[0].cmdline()
    logs = next(text.removeprefix("--log_dir=") for text in arguments if text.startswith("--log_dir="))
    directory = Path(logs).parents[1]
    assert directory in run_directories()
    deployment.process.kill()
    deployment.process.wait(timeout=10)
    assert_gone(family, timeout_s=30)
    assert directory not in run_directories()
    assert port_is_free(deployment.port)


def test_sigterm_while_loading_stops_everything_and_exits_with_0() -> None:
    before = run_directories()
    starting = Deployment()
    deadline = time.monotonic() + 120
    while not starting.named("ray::ServeReplica"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    family = starting.family()
    assert starting.stop() == 0
    assert_gone(family)
    assert starting.stdout == []
    assert run_directories() <= before


@pytest.fixture
def unloadable_model() -> Iterator[Path]:
    """The demo model with a configuration that does not fit its weights."""
    from deploy.loading import load

    source = prepare(load(), lambda _: None).path
    with tempfile.TemporaryDirectory() as folder:
        for file in source.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        config = json.loads((source / "config.json").read_text())
        (Path(folder) / "config.json").unlink()
        (Path(folder) / "config.json").write_text(json.dumps(config | {"hidden_size": 640}))
        yield Path(folder)


def test_a_crash_while_loading_ends_with_its_cause_and_exit_code_1(unloadable_model: Path) -> None:
    failing = Deployment("--model", str(unloadable_model), "--profile", "demo")
    assert failing.wait(timeout_s=240) == 1
    text = "\n".join(failing.stderr)
    assert "Traceback" not in text
    cause = "the model could not be loaded: The size of tensor a (640) must match the size of tensor b (576)"
    assert cause in failing.stderr[-2]
    assert failing.stderr[-1].startswith("The logs are in ")
    assert failing.stdout == []
