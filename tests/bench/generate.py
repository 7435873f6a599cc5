"""transformers' ``generate`` on prompts from stdin: ``python -m tests.bench.generate MODEL_DIRECTORY DTYPE``.

A program of its own, so that its memory is gone afterwards. Reads one JSON object with ``prompts`` (by batch size),
``warm_up`` (more prompts) and ``output_tokens``. Writes JSON lines: ``ready`` when the model is loaded, one ``load`` a
batch size, and at last its ``processes``.
"""

import json
import sys
import time
from typing import Any

import psutil

from tests.bench.client import Answer, summarise
from tests.bench.processes import Family


class FirstToken:
    """Notes when the first new token is there; ``generate`` puts the prompt first, then token after token."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def put(self, value: Any) -> None:
        self.times.append(time.perf_counter())

    def end(self) -> None:
        """Nothing to do; ``generate`` calls it."""


def main() -> None:
    task = json.load(sys.stdin)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=sys.argv[2]).eval()
    write({"ready": True})
    generate(tokenizer, model, task["warm_up"], task["output_tokens"])
    family = Family([psutil.Process()])
    for batch, prompts in task["prompts"].items():
        size = int(batch)
        answers = []
        for first in range(0, len(prompts), size):
            answers += generate(tokenizer, model, prompts[first : first + size], task["output_tokens"])
        write({"load": summarise(size, answers).model_dump()})
    processes = family.after_load()
    write({"processes": [process.model_dump() for process in processes], "others": family.others_share(processes)})


def write(value: dict[str, Any]) -> None:
    print(json.dumps(value), flush=True)


def generate(tokenizer: Any, model: Any, prompts: list[str], output_tokens: int) -> list[Answer]:
    """Complete the prompts as one batch, greedily, each with exactly ``output_tokens`` tokens."""
    clock = FirstToken()
    sent = time.perf_counter()
    batch = tokenizer(prompts, return_tensors="pt", padding=True)
    output = model.generate(
        **batch, do_sample=False, min_new_tokens=output_tokens, max_new_tokens=output_tokens, streamer=clock
    )
    ended = time.perf_counter()
    lengths = batch["attention_mask"].sum(dim=1).tolist()
    new = output.shape[1] - batch["input_ids"].shape[1]
    return [Answer(sent, clock.times[1], ended, length, new) for length in lengths]


if __name__ == "__main__":
    main()
