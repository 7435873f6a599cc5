"""Prevents: a fresh `make serve` that does not answer, an endpoint that is missing,
a figure in the plan that is not vLLM's.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from deploy.loading import load
from deploy.machine import measure
from deploy.model import inspect
from deploy.plan import make_plan
from tests.live.deployment import ROOT, Deployment

pytestmark = pytest.mark.live
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def http(server: Deployment) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture
def client(server: Deployment) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def test_the_ready_line_is_the_only_output_on_stdout(server: Deployment) -> None:
    assert server.stdout == [f"READY http://127.0.0.1:{server.port}/v1 model=demo replicas=1"]


def test_the_demo_model_knows_the_capital_of_france(http: httpx.Client) -> None:
    body = {"model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 20}
    answer = http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


def test_a_plain_curl_command_gets_its_answer(server: Deployment) -> None:
    body = json.dumps({"model": "demo", "messages": QUESTION, "temperature": 0, "max_tokens": 20})
    command = ["curl", "-s", f"localhost:{server.port}/v1/chat/completions", "-d", body]
    assert "Paris" in subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_the_readmes_first_command_prints_what_the_readme_says(server: Deployment) -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"^\$ (curl .*)\n(.*\n)", readme, re.MULTILINE)
    assert found is not None
    command = found[1].replace("localhost:8000", f"localhost:{server.port}")
    printed = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True).stdout
    assert printed == found[2]
    assert "READY http://127.0.0.1:8000/v1 model=demo replicas=1" in readme


def test_the_openai_client_streams_a_chat_as_it_would_from_openai(client: openai.OpenAI, http: httpx.Client) -> None:
    stream = client.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "What is the capital of France?"}],
        temperature=0,
        max_tokens=20,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert chunks[-1].usage is not None
    body = {"model": "demo", "prompt": text, "add_special_tokens": False}
    # The last token ends the text.
    assert chunks[-1].usage.completion_tokens == http.post("/tokenize", json=body).json()["count"] + 1
    with_text = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    # vLLM puts what the engine made while the server was held up into one chunk (``RequestOutputCollector``).
    assert 1 < len(with_text) < chunks[-1].usage.completion_tokens


def test_the_openai_client_lists_models_and_completes_text(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]
    assert client.models.retrieve("demo").id == "demo"
    completion = client.completions.create(model="demo", prompt="Paris is the capital of", max_tokens=3, temperature=0)
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 3


def test_the_openai_client_gets_its_typed_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        client.completions.create(model="gpt-4", prompt="Hi", max_tokens=1)
    assert "gpt-4" in unknown.value.message
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="demo", prompt="Hi", max_tokens=100_000)


def test_the_responses_endpoint_answers(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="demo", input="What is the capital of France?", max_output_tokens=20, temperature=0
    )
    assert "Paris" in response.output_text


def test_the_messages_endpoint_answers(http: httpx.Client) -> None:
    body = {"model": "demo", "messages": QUESTION, "max_tokens": 20, "temperature": 0}
    answer = http.post("/v1/messages", json=body)
    assert answer.status_code == 200
    assert "Paris" in answer.json()["content"][0]["text"]


def test_tokenize_and_detokenize_are_inverse(http: httpx.Client) -> None:
    tokens = http.post("/tokenize", json={"model": "demo", "prompt": "Hello world"}).json()["tokens"]
    assert len(tokens) == 2
    assert http.post("/detokenize", json={"model": "demo", "tokens": tokens}).json()["prompt"] == "Hello world"


def test_a_request_id_of_the_client_is_kept_unless_it_is_malformed(http: httpx.Client) -> None:
    assert http.get("/health", headers={"x-request-id": "abc-123"}).headers["x-request-id"] == "abc-123"
    assert http.get("/health", headers={"x-request-id": "a b"}).headers["x-request-id"] != "a b"


def test_the_plan_counts_the_kv_cache_as_vllm_does(http: httpx.Client) -> None:
    settings = load()
    plan = make_plan(settings, inspect(settings), measure(), starting=False)
    planned = plan.as_dict()["kv_cache"]
    metrics = http.get("/metrics").text
    info = re.search(r"^vllm:cache_config_info\{(.*)\} 1\.0$", metrics, re.MULTILINE)
    assert info is not None
    labels = dict(re.findall(r'(\w+)="([^"]*)"', info[1]))
    assert int(labels["num_gpu_blocks"]) == pytest.approx(planned["blocks"], rel=0.02)


def test_nothing_is_compiled_anew_at_every_start(server: Deployment) -> None:
    (engine,) = server.engines()
    assert list(Path(engine.environ()["TMPDIR"]).glob("torchinductor*")) == []


def test_nothing_listens_beyond_loopback(server: Deployment) -> None:
    wide = [
        (process.name(), connection.laddr)
        for process in server.family()
        for connection in process.net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    ]
    assert wide == []


def test_prompts_are_in_no_log(server: Deployment, http: httpx.Client) -> None:
    marker = "zebra-quartz-7319"
    body = {"model": "demo", "prompt": f"{marker} is", "max_tokens": 2, "echo": True}
    assert http.post("/v1/completions", json=body).status_code == 200
    session = next(
        argument.removeprefix("--log_dir=")
        for process in server.named("gcs_server")
        for argument in process.cmdline()
        if argument.startswith("--log_dir=")
    )

    found = [file for file in Path(session).rglob("*") if file.is_file() and marker.encode() in file.read_bytes()]
    assert found == []
    assert not any(marker in line for line in server.stderr)
