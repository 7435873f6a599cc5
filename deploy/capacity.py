"""What a running vLLM engine has room for, in the terms of ``deploy.gateway.admission``."""

from typing import Any

from deploy.architecture import BYTES_PER_VALUE
from deploy.gateway.demand import Capacity
from deploy.plan.kv import NULL_BLOCKS, KvLayout


def capacity_of(vllm_config: Any) -> Capacity:
    """The capacity of the engine behind ``AsyncLLM.vllm_config``, all its GPUs together.

    The number of blocks and their size are there once the engine has started: it reports them to the process of the
    front end (``v1/engine/core_client.py``, ``_apply_ready_response``).
    """
    cache, model, scheduler = vllm_config.cache_config, vllm_config.model_config, vllm_config.scheduler_config
    parallel = vllm_config.parallel_config
    layout = KvLayout(
        layers=model.get_total_num_hidden_layers(),
        heads=model.get_num_kv_heads(parallel) * parallel.tensor_parallel_size,
        head_dim=model.get_head_size(),
        bytes_per_value=_bytes_per_value(cache.cache_dtype, model.dtype),
        block_size=cache.block_size,
        window=model.get_sliding_window(),
        tokens_in_flight=vllm_config.max_in_flight_tokens,
    )
    return Capacity(
        kv_bytes=(cache.num_gpu_blocks - NULL_BLOCKS) * layout.bytes_per_block,
        bytes_per_sequence=layout.bytes_per_sequence,
        chunk=scheduler.max_num_batched_tokens,
        max_num_seqs=scheduler.max_num_seqs,
        # vLLM's number counts those that run too (AsyncLLM.check_admission).
        max_queued=max(0, scheduler.max_num_queued_reqs - scheduler.max_num_seqs),
    )


def _bytes_per_value(cache_dtype: str, model_dtype: Any) -> int:
    """Bytes of one key or value, for vLLM's ``cache_dtype`` and the model's torch dtype; one not known counts as 2."""
    if cache_dtype == "auto":
        return int(model_dtype.itemsize)
    return 1 if cache_dtype.startswith("fp8") else BYTES_PER_VALUE.get(cache_dtype, 2)
