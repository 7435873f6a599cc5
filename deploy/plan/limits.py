"""Engine arguments that vLLM 0.29 would resolve by itself: length, batch, number format, window.

Paths in docstrings are inside the ``vllm`` package.
"""

from typing import Literal

from deploy.architecture import Architecture
from deploy.errors import UsageError
from deploy.machine import Gpu
from deploy.plan.sizes import GIB
from deploy.settings import Settings

Device = Literal["cpu", "gpu"]


def attention_window(settings: Settings, architecture: Architecture) -> int | None:
    """The window in tokens: the model's, unless ``engine.disable_sliding_window`` is set (``config/model.py``)."""
    return None if settings.engine.get("disable_sliding_window") else architecture.sliding_window


def compute_dtype(settings: Settings, architecture: Architecture) -> str:
    """The format the model runs in; ``auto`` never means float32 (``config/model.py``, ``_resolve_auto_dtype``)."""
    if settings.vllm.dtype != "auto":
        return settings.vllm.dtype
    return architecture.dtype if architecture.dtype in {"bfloat16", "float16"} else "bfloat16"


def max_model_len(settings: Settings, architecture: Architecture) -> int:
    """The longest sequence in tokens, as given or the model's limit (``config/model.py``, ``_get_and_verify_max_len``).

    Raises:
        UsageError: longer than the model's limit.
    """
    limit, reason = architecture.max_position_embeddings, "the model's own limit"
    window = architecture.sliding_window
    if settings.engine.get("disable_sliding_window") and window is not None and window < limit:
        limit, reason = window, "the limit that disable_sliding_window sets, the window,"
    wanted = settings.vllm.max_model_len or limit
    if wanted > limit:
        raise UsageError(f"max_model_len is {wanted} tokens but {reason} is {limit}: lower it to {limit} or less")
    return wanted


def max_num_batched_tokens(settings: Settings, gpu: Gpu | None, length: int) -> int:
    """Most tokens in one step, as given or vLLM's default for an API server.

    Mirrors ``engine/arg_utils.py``, ``get_batch_defaults`` and ``_set_default_max_num_seqs_and_batched_tokens_args``:
    2,048 on a CPU and on most GPUs, more on those of at least 70 and 160 GiB. ``length`` is ``max_model_len``.

    Raises:
        UsageError: fewer tokens than sequences in a step, which vLLM refuses (``config/scheduler.py``).
    """
    sequences = settings.vllm.max_num_seqs
    tokens = settings.vllm.max_num_batched_tokens or min(_default_batched_tokens(gpu), sequences * length)
    if tokens < sequences:
        raise UsageError(
            f"max_num_batched_tokens is {tokens}, below max_num_seqs, {sequences}: raise the first or lower the second"
        )
    return tokens


def _default_batched_tokens(gpu: Gpu | None) -> int:
    if gpu is not None and gpu.memory_bytes >= 160 * GIB:
        return 16384
    if gpu is not None and gpu.memory_bytes >= 70 * GIB and "a100" not in gpu.name.lower():
        return 8192
    return 2048
