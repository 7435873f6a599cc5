"""Prevents a start that hangs on an unreachable hub, downloads what nobody reads, or ends in a stack of the library's.

Every case runs in a process of its own, because huggingface_hub reads its environment when it is imported.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.model_files import hf_files, index, safetensors
from tests.unit.stub_hub import COMMIT, MODEL, StubHub, etag, stub_hub

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
FILES = hf_files(model_safetensors=None, tokenizer_json=b'{"version": "1.0"}') | {
    SHARDS[0]: safetensors(values=500),
    SHARDS[1]: safetensors(values=600),
    "model.safetensors.index.json": index(*SHARDS),
    "consolidated.safetensors": safetensors(values=16),
    "params.json": b"{}",
    "pytorch_model.bin": b"unsafe",
    "README.md": b"#",
}
NEEDED = {"config.json", "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", *SHARDS}
NEEDED_BYTES = sum(len(FILES[name]) for name in NEEDED)
WEIGHT_BYTES = len(FILES[SHARDS[0]]) + len(FILES[SHARDS[1]])

_DRIVER = """
import json, sys
from dataclasses import asdict
from huggingface_hub import constants
from deploy.errors import ServeError
from deploy.model import hub, inspect, prepare
from deploy.settings import Settings
call, overrides = sys.argv[1], json.loads(sys.argv[2])
hub.CONNECT_TIMEOUT_S = hub.LOOK_TIMEOUT_S = float(sys.argv[3])
constants.DOWNLOAD_CHUNK_SIZE = 100
lines = []
try:
    settings = Settings(**overrides)
    result = asdict(inspect(settings) if call == "inspect" else prepare(settings, lines.append))
except ServeError as error:
    result = {"error": type(error).__name__, "exit_code": error.exit_code, "message": str(error)}
heavy = [name for name in ("torch", "transformers", "vllm", "ray") if name in sys.modules]
print(json.dumps({"result": result, "lines": lines, "heavy": heavy}, default=str))
"""


class Machine:
    """A machine with its own hub cache, on which the functions under test are called."""

    def __init__(self, cache: Path, hub_url: str) -> None:
        self.cache = cache
        self.environment = {"HF_ENDPOINT": hub_url, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
        self.timeout_s = 30.0
        self.lines: list[str] = []
        self.stderr = ""

    def call(self, function: str, model: str = MODEL, **settings: Any) -> dict[str, Any]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MISTRAL_SERVE_"))}
        arguments = (function, json.dumps({"model": model} | settings), str(self.timeout_s))
        done = subprocess.run(
            [sys.executable, "-c", _DRIVER, *arguments],
            env=outside | self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert answer["heavy"] == []
        self.lines, self.stderr = answer["lines"], done.stderr
        result: dict[str, Any] = answer["result"]
        return result

    @property
    def snapshot(self) -> Path:
        return self.cache / f"models--{MODEL.replace('/', '--')}" / "snapshots" / COMMIT


@pytest.fixture
def hub() -> Iterator[StubHub]:
    with stub_hub(FILES) as hub:
        yield hub


@pytest.fixture
def machine(tmp_path: Path, hub: StubHub) -> Machine:
    return Machine(tmp_path / "hub", hub.url)


def test_only_the_needed_files_are_downloaded_and_the_second_start_asks_nobody(machine: Machine, hub: StubHub) -> None:
    prepared = machine.call("prepare")
    assert prepared["path"] == str(machine.snapshot)
    assert (prepared["name"], prepared["load_format"], prepared["tokenizer_mode"]) == (MODEL, "auto", "hf")
    assert hub.fetched() == NEEDED
    assert machine.lines == [f"asking the model hub for {MODEL}", f"downloading {MODEL}: 6 files, 0.0 GB"]

    hub.requests.clear()
    assert machine.call("prepare") == prepared
    assert (hub.requests, machine.lines) == ([], [])


def test_a_cached_model_needs_no_hub_at_all(machine: Machine, hub: StubHub) -> None:
    machine.call("prepare")
    machine.environment["HF_HUB_OFFLINE"] = "1"
    source = machine.call("inspect", revision="main")
    assert (source["directory"], source["download_bytes"]) == (str(machine.snapshot), 0)
    assert source["weight_bytes"] == WEIGHT_BYTES
    assert source["architecture"]["layers"] == 2


def test_mistrals_format_is_downloaded_when_it_is_asked_for(machine: Machine, hub: StubHub) -> None:
    hub.files = dict(FILES) | {"tekken.json": b'{"config": {}}'}
    vllm = {"config_format": "hf", "tokenizer_mode": "mistral", "load_format": "mistral"}
    prepared = machine.call("prepare", vllm=vllm)
    assert prepared["load_format"] == "mistral"
    assert hub.fetched() >= {"consolidated.safetensors", "tekken.json"}
    assert not hub.fetched() & set(SHARDS)


def test_a_download_that_was_cut_goes_on_where_it_stopped(machine: Machine, hub: StubHub) -> None:
    hub.cut_at = 400
    result = machine.call("prepare")
    assert (result["error"], result["exit_code"]) == ("StartError", 1)
    assert result["message"].startswith(f"the download of '{MODEL}' broke off (")
    assert result["message"].endswith("): start again to resume it")

    hub.cut_at = None
    hub.requests.clear()
    assert machine.call("prepare")["path"] == str(machine.snapshot)
    assert [(path.rsplit("/", 1)[1], wanted) for method, path, wanted in hub.requests if method == "GET"][-2:] == [
        (SHARDS[0], "bytes=400-"),
        (SHARDS[1], None),
    ]
    assert (machine.snapshot / SHARDS[0]).read_bytes() == FILES[SHARDS[0]]
    assert "going on with" in " ".join(machine.lines)


def test_a_part_that_is_not_the_announced_file_is_dropped(machine: Machine, hub: StubHub) -> None:
    blobs = machine.snapshot.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    part = blobs / f"{etag(FILES[SHARDS[0]])}.part"
    part.write_bytes(b"other" * 10)
    result = machine.call("prepare")
    assert result["message"].startswith(f"{SHARDS[0]} arrived with the SHA-256 ")
    assert not part.exists()
    assert machine.call("prepare")["path"] == str(machine.snapshot)


def test_a_part_longer_than_the_file_starts_anew(machine: Machine, hub: StubHub) -> None:
    content = FILES[SHARDS[0]]
    blobs = machine.snapshot.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag(content)}.part").write_bytes(bytes(len(content) + 1))
    machine.call("prepare")
    assert (machine.snapshot / SHARDS[0]).read_bytes() == content


def test_a_partial_download_is_planned_with_what_is_left(machine: Machine, hub: StubHub) -> None:
    machine.call("prepare")
    (machine.snapshot / SHARDS[1]).unlink()
    hub.requests.clear()
    source = machine.call("inspect")
    assert (source["directory"], source["download_bytes"]) == (None, len(FILES[SHARDS[1]]))
    assert source["architecture"]["layers"] == 2
    assert hub.requests == []


def test_a_cached_model_without_its_chat_template_is_not_complete(machine: Machine, hub: StubHub) -> None:
    hub.files = dict(FILES) | {"chat_template.jinja": b"own"}
    machine.call("prepare")
    (machine.snapshot / "chat_template.jinja").unlink()
    assert machine.call("inspect")["directory"] is None


def test_an_unknown_model_is_asked_for_once_and_not_downloaded(machine: Machine, hub: StubHub) -> None:
    source = machine.call("inspect")
    assert source["architecture"]["sliding_window"] == 256
    assert (source["download_bytes"], source["weight_bytes"]) == (NEEDED_BYTES, WEIGHT_BYTES)
    assert hub.fetched() == {"config.json"}


def test_the_token_is_sent_and_never_shown(machine: Machine, hub: StubHub) -> None:
    machine.environment["HF_TOKEN"] = "hf_secret"
    hub.refuse["resolve"] = (403, "")
    result = machine.call("prepare")
    assert result == {
        "error": "UsageError",
        "exit_code": 2,
        "message": f"the model hub refuses '{MODEL}' (HTTP 403): set HF_TOKEN to a token that may read it",
    }
    assert hub.tokens == {"Bearer hf_secret"}
    assert "hf_secret" not in machine.stderr


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("call", ["inspect", "prepare"])
def test_a_gated_model_tells_what_to_do(machine: Machine, hub: StubHub, status: int, call: str) -> None:
    hub.refuse["resolve"] = (status, "GatedRepo")
    assert machine.call(call) == {
        "error": "UsageError",
        "exit_code": 2,
        "message": f"model '{MODEL}' is gated: accept the conditions on its hub page, and set HF_TOKEN to a token of "
        "yours",
    }


@pytest.mark.parametrize("call", ["inspect", "prepare"])
def test_a_model_that_does_not_exist_is_named(machine: Machine, call: str) -> None:
    result = machine.call(call, "someone/else")
    assert (result["error"], result["message"]) == (
        "UsageError",
        "the model hub has no model 'someone/else', or it is private: check the spelling, set HF_TOKEN, "
        "or give a local directory with --model /path",
    )


def test_a_revision_that_does_not_exist_is_named(machine: Machine) -> None:
    result = machine.call("prepare", revision="v9")
    assert (result["error"], result["message"]) == (
        "UsageError",
        f"model '{MODEL}' has no revision 'v9': give one of its branches, tags or commits",
    )


def test_a_model_without_usable_weights_is_refused_before_anything_is_downloaded(
    machine: Machine, hub: StubHub
) -> None:
    hub.files = {name: content for name, content in FILES.items() if name.endswith(".json")}
    result = machine.call("prepare")
    assert result["message"] == (
        f"model '{MODEL}' has no weights (*.safetensors or *.bin) for load_format 'auto': copy or download them"
    )
    assert hub.fetched() == set()


def test_a_hub_that_fails_is_told_from_one_that_refuses(machine: Machine, hub: StubHub) -> None:
    hub.refuse["api"] = (500, "")
    result = machine.call("prepare")
    assert (result["exit_code"], result["message"]) == (1, unreachable("HTTP 500"))


def test_a_hub_that_cannot_be_resolved_is_told_in_one_sentence(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "http://hub.invalid")
    result = machine.call("prepare")
    assert result["exit_code"] == 1
    # The resolver's own words, between the parentheses, differ from machine to machine.
    before, _, after = unreachable("…").partition("…")
    assert result["message"].startswith(before)
    assert result["message"].endswith(after)
    assert "Errno" in result["message"]


def test_a_hub_that_never_answers_is_given_up(machine: Machine, hub: StubHub) -> None:
    hub.refuse["api"] = (0, "")
    machine.timeout_s = 0.3
    assert machine.call("prepare")["message"] == unreachable("no answer within 0.3 s")


def test_planning_goes_on_without_the_hub_and_warns(machine: Machine, hub: StubHub) -> None:
    hub.refuse["api"] = (0, "")
    machine.timeout_s = 0.2
    source = machine.call("inspect")
    assert (source["architecture"], source["download_bytes"], source["has_chat_template"]) == (None, None, None)
    assert source["warnings"] == [unreachable("no answer within 0.2 s")]


def test_a_public_mistral_is_planned_without_asking_the_hub(machine: Machine, hub: StubHub) -> None:
    source = machine.call("inspect", "mistralai/Mistral-7B-Instruct-v0.1")
    assert source["architecture"]["sliding_window"] == 4096
    assert (source["weight_bytes"], source["download_bytes"]) == (14_483_464_192, 14_483_464_192)
    assert source["has_chat_template"] is True
    assert hub.requests == []


def test_offline_nothing_is_asked_and_the_remedy_is_told(machine: Machine, hub: StubHub) -> None:
    machine.environment["HF_HUB_OFFLINE"] = "1"
    assert machine.call("inspect")["architecture"] is None
    result = machine.call("prepare")
    assert (result["error"], result["message"]) == (
        "UsageError",
        f"model '{MODEL}' is not complete in the local cache and HF_HUB_OFFLINE is set: unset that once to download "
        "it, or give a local directory with --model /path",
    )
    assert hub.requests == []


def unreachable(reason: str) -> str:
    return (
        f"cannot reach the model hub to download '{MODEL}' ({reason}): connect, set HF_ENDPOINT to a mirror, "
        "or give a local directory with --model /path"
    )
