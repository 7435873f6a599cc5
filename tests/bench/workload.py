"""The work that every system gets."""

import secrets
from dataclasses import dataclass

from tests.bench.prompts import prompts

PROMPT_WORDS = 100
OUTPUT_TOKENS = 64
CONCURRENCIES = (1, 16, 32)
WARM_UP = 32


@dataclass(frozen=True)
class Workload:
    """How many requests each concurrency gets. ``batches``: how many transformers gets at each batch size."""

    requests: dict[int, int]
    batches: dict[int, int]


# Whole rounds of the concurrency, so that the last round is as full as the others.
FULL = Workload({1: 24, 16: 96, 32: 128}, {1: 4, 16: 1, 32: 1})
QUICK = Workload({1: 4, 16: 16, 32: 32}, {1: 1, 32: 1})


@dataclass(frozen=True)
class Prompts:
    """The prompts of one repeat, all different; ``loads`` by concurrency."""

    warm_up: list[str]
    loads: dict[int, list[str]]


def new_prompts(workload: Workload) -> Prompts:
    """Prompts that no server has seen before."""
    nonce = secrets.token_hex(4)
    first = WARM_UP
    loads = {}
    for concurrency, count in workload.requests.items():
        loads[concurrency] = prompts(nonce, first, count, PROMPT_WORDS)
        first += count
    return Prompts(prompts(nonce, 0, WARM_UP, PROMPT_WORDS), loads)
