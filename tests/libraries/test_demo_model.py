"""Prevents a demo model that builds without error and then talks nonsense: builds the real one and asks it."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.model import inspect, prepare
from deploy.settings import Settings


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """The demo model, built from nothing into a directory of this test's own, and what the build told."""
    lines: list[str] = []
    settings = Settings(cache_dir=tmp_path_factory.mktemp("cache"))
    return prepare(settings, lines.append).path, lines


def test_building_tells_each_step(built: tuple[Path, list[str]]) -> None:
    steps = [line.split(":")[0] for line in built[1] if "still" not in line]
    assert steps == [f"demo model {step}/4" for step in (1, 2, 3, 4)]


def test_the_second_time_it_is_there_at_once(built: tuple[Path, list[str]]) -> None:
    path, _ = built
    settings = Settings(cache_dir=path.parents[1])
    assert prepare(settings, pytest.fail).path == path
    source = inspect(settings)
    assert (source.directory, source.download_bytes) == (path, 0)


def test_the_configuration_says_mistral_with_gqa_and_a_window(built: tuple[Path, list[str]]) -> None:
    config = json.loads((built[0] / "config.json").read_text())
    expected = {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "sliding_window": 1024,
        "dtype": "bfloat16",
    }
    assert {key: config.get(key) for key in expected} == expected


def test_transformers_answers_with_it_and_no_word_of_the_answer_is_nearly_a_tie(built: tuple[Path, list[str]]) -> None:
    """A bf16 logit differs by 0.1 or so from one CPU to another: nearer than that, the machine decides what is said."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(built[0])
    model: Any = AutoModelForCausalLM.from_pretrained(built[0], dtype=torch.float32)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    answer = model.generate(
        **prompt, max_new_tokens=20, do_sample=False, return_dict_in_generate=True, output_logits=True
    )
    assert type(model).__name__ == "MistralForCausalLM"
    tokens = answer.sequences[0][prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(tokens, skip_special_tokens=True) == "The capital of France is Paris."
    best, second = torch.stack(answer.logits)[:, 0].topk(2).values.unbind(-1)
    assert float((best - second).min()) > 1.0
