"""Prevents: a rehearsal that does not start,
or that measures and fits something else than Mistral 7B's architecture, or an engine that dies where g++ is missing.
"""

import re

import httpx
import psutil
import pytest
import yaml

from tests.live.deployment import Deployment, eventually, serving

QUESTION = [{"role": "user", "content": "Who are you?"}]


def plan_in(deployment: Deployment) -> dict[str, dict[str, object]]:
    """The plan that serve.py printed on stderr before it loaded anything."""
    text = "\n".join(deployment.stderr)
    plan = yaml.safe_load(re.search(r"^model:\n.*?(?=^\d{4}-)", text, re.DOTALL | re.MULTILINE)[0])  # type: ignore[index]
    assert isinstance(plan, dict)
    return plan


def rates(deployment: Deployment) -> list[str]:
    """The lines that say how fast the model is."""
    return [line for line in deployment.stderr if " tokens/s for " in line]


def check(deployment: Deployment) -> None:
    eventually(lambda: len(rates(deployment)) == 2, 5, "the measured rates")
    alone, together = rates(deployment)
    assert re.search(r"rehearsal: \d+\.\d\d tokens/s for one request alone", alone)
    assert re.search(r"rehearsal: \d+\.\d\d tokens/s for 4 requests at once", together)
    body = {"model": "mistral-7b-rehearsal", "max_tokens": 2, "ignore_eos": True}
    text = httpx.post(f"{deployment.url}/v1/completions", json=body | {"prompt": "Hi"}, timeout=300).json()
    chat = httpx.post(f"{deployment.url}/v1/chat/completions", json=body | {"messages": QUESTION}, timeout=300).json()
    assert text["usage"]["completion_tokens"] == chat["usage"]["completion_tokens"] == 2


@pytest.mark.live
def test_a_rehearsal_of_two_layers_serves_mistrals_architecture_and_samples_without_a_compiler() -> None:
    flags = (
        "--rehearse",
        "--rehearse-layers",
        "2",
        "--max-model-len",
        "1024",
        "--kv-cache-gib",
        "0.25",
        "--enforce-eager",
    )
    # Without a C++ compiler too, in the same server because each start takes half a minute.
    with serving(*flags, environment={"CXX": "no-such-compiler"}) as deployment:
        check(deployment)
        planned = plan_in(deployment)
        assert planned["model"]["architecture"] == "MistralForCausalLM"
        assert any("sampling is slower" in str(warning) for warning in planned["warnings"])
        sampled = {"model": "mistral-7b-rehearsal", "prompt": "Hi", "max_tokens": 2, "temperature": 1, "logprobs": 2}
        answer = httpx.post(f"{deployment.url}/v1/completions", json=sampled, timeout=300)
        assert len(answer.json()["choices"][0]["logprobs"]["top_logprobs"]) == 2
        tokens = httpx.post(
            f"{deployment.url}/tokenize", json={"model": "mistral-7b-rehearsal", "messages": QUESTION}, timeout=60
        ).json()["tokens"]
    # v0.1's tokenizer: <s>, then "[INST]" as plain text: ▁[ INST ]
    assert tokens[:4] == [1, 733, 16289, 28793]


@pytest.mark.rehearsal
@pytest.mark.timeout(1800)
def test_a_rehearsal_of_the_full_size_fits_and_serves() -> None:
    free = psutil.virtual_memory().available / 1024**3
    assert free > 20, f"the full-size rehearsal needs 20 GiB of free memory, and {free:.1f} GiB are free"
    with serving("--rehearse", "--max-model-len", "4096", "--kv-cache-gib", "1", "--enforce-eager") as deployment:
        check(deployment)
        assert plan_in(deployment)["model"]["parameters"] == 7_241_732_096
