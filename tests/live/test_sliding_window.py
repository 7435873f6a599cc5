"""Prevents: a sliding window that is configured but not applied, or applied but not saving memory.

Weights and activations are float32 here, so that greedy tokens must be equal without any tolerance: in bfloat16 two
correct implementations round differently and may pick the other of two nearly equal tokens.
"""

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.loading import load
from deploy.model import prepare
from tests.live.deployment import Deployment, serving

pytestmark = pytest.mark.live
WINDOW = 1024
CHUNK = 512
NEW_TOKENS = 32
LONG = 2600
"""Tokens of the prompt whose KV blocks are counted: far more than the window and one chunk."""
FLAGS = ("--dtype", "float32", "--vllm.max-num-batched-tokens", str(CHUNK), "--kv-cache-gib", "1", "--profile", "demo")


@pytest.fixture(scope="module")
def directory() -> Path:
    return prepare(load(), lambda _: None).path


@pytest.fixture(scope="module")
def windowless(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with full attention."""
    copy = tmp_path_factory.mktemp("windowless")
    for file in directory.iterdir():
        if file.name != "config.json":
            (copy / file.name).symlink_to(file)
    config = json.loads((directory / "config.json").read_text())
    assert config["sliding_window"] == WINDOW
    (copy / "config.json").write_text(json.dumps(config | {"sliding_window": None}))
    return copy


def text_of(tokens: int, tokenizer: Any) -> list[int]:
    """A prompt of exactly ``tokens`` tokens in which what stands early matters for what comes last."""
    facts = "The lighthouse keeper is called Ottilie Brandt. Her secret number is 4817. "
    filler = " ".join(f"On day {day} the ship number {day * 7 % 101} passed the harbour." for day in range(tokens))
    tail = tokenizer(
        " Question: what is the keeper called, and what is her secret number? Answer: she is called"
    ).input_ids
    body = tokenizer(facts + filler).input_ids[: tokens - len(tail)]
    return [*body, *tail]


@pytest.fixture(scope="module")
def prompts(directory: Path) -> dict[str, list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    return {"shorter": text_of(600, tokenizer), "longer": text_of(2000, tokenizer), "long": text_of(LONG, tokenizer)}


def reference(path: Path, prompt: list[int]) -> list[int]:
    """Greedy tokens of transformers' Mistral."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        ids = torch.tensor([prompt])
        output = model.generate(ids, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
    return list(output[0, len(prompt) :].tolist())


def served(deployment: Deployment, model: str, prompt: list[int]) -> list[int]:
    """Greedy tokens of the served model."""
    body = {
        "model": model,
        "prompt": prompt,
        "max_tokens": NEW_TOKENS,
        "min_tokens": NEW_TOKENS,
        "temperature": 0,
        "return_token_ids": True,
    }
    answer = httpx.post(f"{deployment.url}/v1/completions", json=body, timeout=300)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["choices"][0]["token_ids"])


def most_blocks_while_decoding(deployment: Deployment, model: str, prompt: list[int]) -> tuple[int, int]:
    """The most KV blocks in use after the first token of a long prompt, and the size of a block in tokens."""
    body = {"model": model, "prompt": prompt, "max_tokens": 40, "ignore_eos": True, "temperature": 0, "stream": True}
    info = metric(deployment, r"vllm:cache_config_info\{(.*)\}")
    labels = dict(re.findall(r'(\w+)="([^"]*)"', info))
    most, chunks = 0.0, 0
    with httpx.stream("POST", f"{deployment.url}/v1/completions", json=body, timeout=300) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                assert '"choices"' in line, line
                if chunks % 10 == 0:
                    most = max(most, float(metric(deployment, r"vllm:kv_cache_usage_perc\{.*\} (\S+)")))
                chunks += 1
    assert chunks > 1, "the stream came in one piece, so nothing was seen of its decoding"
    return round(most * int(labels["num_gpu_blocks"])), int(labels["block_size"])


def metric(deployment: Deployment, pattern: str) -> str:
    found = re.search(f"^{pattern}", httpx.get(f"{deployment.url}/metrics", timeout=30).text, re.MULTILINE)
    assert found is not None, pattern
    return found[1]


@pytest.fixture(scope="module")
def observed(directory: Path, windowless: Path, prompts: dict[str, list[int]]) -> dict[str, Any]:
    """What each of the two servers answered and used; they run one after the other."""
    seen: dict[str, Any] = {}
    for name, path in {"window": directory, "full": windowless}.items():
        with serving("--model", str(path), "--served-model-name", "m", *FLAGS) as deployment:
            seen[name] = {key: served(deployment, "m", prompts[key]) for key in ("shorter", "longer")}
            seen[name]["blocks"], seen[name]["block_size"] = most_blocks_while_decoding(
                deployment, "m", prompts["long"]
            )
    return seen


@pytest.mark.parametrize("prompt", ["shorter", "longer"])
def test_greedy_tokens_equal_those_of_transformers_with_the_same_window(
    observed: dict[str, Any], directory: Path, prompts: dict[str, list[int]], prompt: str
) -> None:
    assert observed["window"][prompt] == reference(directory, prompts[prompt])


def test_without_a_window_the_tokens_differ_on_a_longer_prompt_and_equal_transformers_full_attention(
    observed: dict[str, Any], windowless: Path, prompts: dict[str, list[int]]
) -> None:
    assert observed["full"]["shorter"] == observed["window"]["shorter"]
    assert observed["full"]["longer"] != observed["window"]["longer"]
    assert observed["full"]["longer"] == reference(windowless, prompts["longer"])


def test_kv_blocks_while_decoding_a_long_prompt_stay_within_the_window_plus_one_chunk(observed: dict[str, Any]) -> None:
    window, full = observed["window"], observed["full"]
    assert 0 < window["blocks"] * 32 <= WINDOW + CHUNK + 32
    assert full["blocks"] * full["block_size"] >= LONG
