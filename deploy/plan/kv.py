"""The KV cache as vLLM 0.29 lays it out and counts it.

Each formula names the upstream function that it mirrors; paths are inside the ``vllm`` package. The model is one with
the same attention in every layer (Mistral's), so vLLM has one cache group and one block size.
"""

from dataclasses import dataclass
from math import ceil

from deploy.architecture import BYTES_PER_VALUE, Architecture
from deploy.errors import UsageError
from deploy.plan.limits import Device, compute_dtype
from deploy.settings import Settings

NULL_BLOCKS = 1
"""vLLM keeps one block out of use (``v1/core/block_pool.py``, ``BlockPool.null_block``)."""

WINDOW_BLOCK: dict[Device, int] = {"cpu": 32, "gpu": 16}
"""Tokens in a block of a sliding-window cache: the smallest block that the attention backend supports, whatever
``block_size`` says (``model_executor/layers/attention/attention.py``, ``Attention.get_kv_cache_spec``)."""

FULL_BLOCK: dict[Device, int] = {"cpu": 128, "gpu": 16}
"""Tokens in a block of a full-attention cache (``platforms/cpu.py``, ``check_and_update_config``; ``config/cache.py``,
``DEFAULT_BLOCK_SIZE``)."""

BATCHES_IN_FLIGHT: dict[Device, int] = {"cpu": 1, "gpu": 2}
"""Steps scheduled at once: a GPU's scheduler runs one step ahead (``config/vllm.py``, ``max_concurrent_batches``)."""


@dataclass(frozen=True)
class KvLayout:
    """The KV cache of one worker: of a CPU replica, or of one GPU.

    ``heads`` are the KV heads this worker keeps; ``block_size``, ``window`` and ``tokens_in_flight`` are in tokens.
    """

    layers: int
    heads: int
    head_dim: int
    bytes_per_value: int
    block_size: int
    window: int | None
    tokens_in_flight: int

    @property
    def bytes_per_token(self) -> int:
        """Keys and values of one token in all layers (``v1/kv_cache_interface.py``, ``AttentionSpec``)."""
        return 2 * self.layers * self.heads * self.head_dim * self.bytes_per_value

    @property
    def bytes_per_block(self) -> int:
        """One block in all layers (``v1/core/kv_cache_utils.py``, ``_get_kv_cache_bytes_per_block``)."""
        return self.bytes_per_token * self.block_size

    def blocks_per_sequence(self, length: int) -> int:
        """Most blocks that a sequence of ``length`` tokens holds at any time.

        With a window these are the window before the running chunk, the tokens in flight, and one block more because
        the window need not begin where a block does (``SlidingWindowSpec.max_admission_blocks_per_request``). Without,
        they are every token's (``FullAttentionSpec.max_memory_usage_bytes``).
        """
        if self.window is None:
            return ceil(length / self.block_size)
        held = min(self.window - 1 + self.tokens_in_flight, length)
        return ceil(held / self.block_size) + 1

    def bytes_per_sequence(self, length: int) -> int:
        """Most bytes that a sequence of ``length`` tokens holds at any time."""
        return self.blocks_per_sequence(length) * self.bytes_per_block

    def blocks(self, memory: int) -> int:
        """Blocks in ``memory`` bytes (``get_kv_cache_config_from_groups``)."""
        return memory // self.bytes_per_block

    def sequences(self, memory: int, length: int) -> float:
        """Sequences of ``length`` tokens that fit at once (``get_max_concurrency_for_kv_cache_config``)."""
        return self.blocks(memory) / self.blocks_per_sequence(length)

    def tokens(self, memory: int, length: int) -> int:
        """The cache's size in tokens that vLLM logs for ``length`` as ``max_model_len`` (``get_kv_cache_capacity``)."""
        return int(self.sequences(memory, length) * length)

    def least_memory(self, length: int) -> int:
        """Bytes below which vLLM refuses ``length`` as ``max_model_len`` (``_check_enough_kv_cache_memory``)."""
        return (self.blocks_per_sequence(length) + NULL_BLOCKS) * self.bytes_per_block

    def longest(self, memory: int, limit: int) -> int:
        """The largest ``max_model_len``, up to ``limit`` tokens, that ``memory`` bytes allow; 0 where none does."""
        if self.least_memory(limit) <= memory:
            return limit
        usable = self.blocks(memory) - NULL_BLOCKS - (0 if self.window is None else 1)
        return max(0, usable * self.block_size)


def layout(
    settings: Settings, architecture: Architecture, device: Device, *, window: int | None, batched_tokens: int
) -> KvLayout:
    """The layout that vLLM chooses for a window, or without one; ``batched_tokens`` is ``max_num_batched_tokens``.

    Raises:
        UsageError: the heads cannot be shared out over ``tensor_parallel_size`` GPUs, or ``block_size`` is no count.
    """
    workers = settings.vllm.tensor_parallel_size
    if architecture.heads % workers:
        raise UsageError(
            f"tensor_parallel_size is {workers}, over which {architecture.heads} attention heads cannot be shared out "
            f"evenly: choose a divisor of {architecture.heads}"
        )
    full_block = settings.engine.get("block_size", FULL_BLOCK[device])
    if type(full_block) is not int or full_block < 1:
        raise UsageError(f"engine argument block_size is {full_block!r}: give a whole number of tokens, at least 1")
    return KvLayout(
        layers=architecture.layers,
        # vLLM repeats KV heads where there are more GPUs than heads (config/model.py, get_num_kv_heads).
        heads=max(1, architecture.kv_heads // workers),
        head_dim=architecture.head_dim,
        bytes_per_value=bytes_per_value(settings, architecture),
        block_size=full_block if window is None else WINDOW_BLOCK[device],
        window=window,
        tokens_in_flight=batched_tokens * BATCHES_IN_FLIGHT[device],
    )


def bytes_per_value(settings: Settings, architecture: Architecture) -> int:
    """Bytes of one key or value: ``engine.kv_cache_dtype``, or the model's format; one not known counts as 2."""
    dtype = str(settings.engine.get("kv_cache_dtype", "auto"))
    if dtype.startswith("fp8"):
        return 1
    return BYTES_PER_VALUE.get(compute_dtype(settings, architecture) if dtype == "auto" else dtype, 2)
