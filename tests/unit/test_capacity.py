"""Prevents: an admission that reckons with another KV cache than the engine has."""

from types import SimpleNamespace
from typing import Any

import pytest

from deploy.capacity import capacity_of

KIB, MIB = 1024, 1024**2


def config(*, window: int | None = None, cache_dtype: str = "auto", gpus: int = 1, kv_heads: int = 8) -> Any:
    """vLLM's configuration of a Mistral 7B, as it is once the engine has started."""
    return SimpleNamespace(
        cache_config=SimpleNamespace(num_gpu_blocks=1001, block_size=16, cache_dtype=cache_dtype),
        model_config=SimpleNamespace(
            dtype=SimpleNamespace(itemsize=2),
            get_total_num_hidden_layers=lambda: 32,
            get_num_kv_heads=lambda parallel: max(1, kv_heads // parallel.tensor_parallel_size),
            get_head_size=lambda: 128,
            get_sliding_window=lambda: window,
        ),
        scheduler_config=SimpleNamespace(max_num_batched_tokens=2048, max_num_seqs=64, max_num_queued_reqs=576),
        parallel_config=SimpleNamespace(tensor_parallel_size=gpus),
        max_in_flight_tokens=4096,
    )


@pytest.mark.parametrize("gpus", [1, 4])
def test_a_token_of_mistral_7b_takes_128_kib_over_all_gpus(gpus: int) -> None:
    capacity = capacity_of(config(gpus=gpus))
    assert capacity.bytes_per_sequence(16) == 16 * 128 * KIB
    assert capacity.kv_bytes == 1000 * 16 * 128 * KIB == 2000 * MIB


def test_blocks_are_taken_as_a_whole() -> None:
    assert capacity_of(config()).bytes_per_sequence(17) == 2 * 16 * 128 * KIB


def test_a_sequence_keeps_no_more_than_the_window_and_what_is_in_flight() -> None:
    held = capacity_of(config(window=4096)).bytes_per_sequence
    assert held(32_768) == held(10_000) == (4096 - 1 + 4096 + 1 + 16) * 128 * KIB
    assert held(1000) < capacity_of(config()).bytes_per_sequence(1100)


@pytest.mark.parametrize(("cache_dtype", "share"), [("auto", 1), ("bfloat16", 1), ("fp8", 2), ("fp8_e5m2", 2)])
def test_a_smaller_format_of_the_cache_takes_less(cache_dtype: str, share: int) -> None:
    assert capacity_of(config(cache_dtype=cache_dtype)).bytes_per_sequence(16) == 16 * 128 * KIB // share


def test_the_queue_is_what_vllm_accepts_besides_what_runs() -> None:
    capacity = capacity_of(config())
    assert (capacity.max_num_seqs, capacity.max_queued, capacity.chunk) == (64, 512, 2048)
