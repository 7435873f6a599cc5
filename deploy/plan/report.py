"""The plan as a mapping and as YAML.

Every size is there twice: ``name`` as people read it, ``name_bytes`` exactly. What only a download can tell is
``unknown until downloaded``, its exact value null.
"""

from typing import TYPE_CHECKING, Any

import yaml

from deploy.plan.limits import compute_dtype
from deploy.plan.sizes import human

if TYPE_CHECKING:
    from deploy.plan.planning import Fit, Plan

UNKNOWN = "unknown until downloaded"
SECRET_ARGUMENTS = {"api_key", "hf_token"}


def render(plan: "Plan") -> str:
    """The plan as YAML, in the order of reading."""
    return str(yaml.safe_dump(as_dict(plan), sort_keys=False, allow_unicode=True, width=120))


def as_dict(plan: "Plan") -> dict[str, Any]:
    """The plan as plain values, in the order of reading."""
    return {
        "model": _model(plan),
        "engine": _engine(plan),
        "replicas": _replicas(plan),
        "memory": UNKNOWN if plan.fit is None else _memory(plan, plan.fit),
        "kv_cache": UNKNOWN if plan.fit is None else _kv_cache(plan, plan.fit),
        "endpoints": _endpoints(plan),
        "warnings": list(plan.warnings),
    }


def _size(name: str, size: int | None, unknown: str = UNKNOWN) -> dict[str, Any]:
    return {name: unknown if size is None else human(size), f"{name}_bytes": size}


def _model(plan: "Plan") -> dict[str, Any]:
    source, architecture = plan.source, plan.source.architecture
    return {
        "name": source.name,
        "id": source.model,
        "kind": source.kind,
        "directory": None if source.directory is None else str(source.directory),
        "architecture": UNKNOWN if architecture is None else architecture.name,
        "parameters": UNKNOWN if architecture is None else architecture.parameters,
        **_size("files", source.weight_bytes),
        **_size("weights", None if plan.fit is None else plan.fit.weights),
        **_size("download", source.download_bytes, "unknown"),
    }


def _engine(plan: "Plan") -> dict[str, Any]:
    vllm, fit = plan.settings.vllm, plan.fit
    engine: dict[str, Any] = {
        "device": plan.device,
        "dtype": vllm.dtype if fit is None else compute_dtype(plan.settings, fit.architecture),
        "quantization": vllm.quantization,
        "max_model_len": UNKNOWN if plan.max_model_len is None else plan.max_model_len,
        "max_num_seqs": vllm.max_num_seqs,
        "max_num_batched_tokens": UNKNOWN if fit is None else fit.max_num_batched_tokens,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "enforce_eager": vllm.enforce_eager,
        "load_format": vllm.load_format,
    }
    if plan.device == "gpu":
        engine["gpu_memory_utilization"] = vllm.gpu_memory_utilization
    if plan.settings.engine:
        engine["further_arguments"] = {
            key: "(hidden)" if key in SECRET_ARGUMENTS else value for key, value in plan.settings.engine.items()
        }
    return engine


def _replicas(plan: "Plan") -> dict[str, Any]:
    replicas: dict[str, Any] = {
        "min": plan.replicas_min,
        "max": plan.replicas_max,
        "autoscaling": plan.settings.scaling.autoscaling,
        "device": plan.device,
        "cores_per_replica": plan.cores_per_replica,
        "gpus_per_replica": plan.gpus_per_replica,
    }
    if plan.settings.scaling.autoscaling:
        replicas["target_ongoing_requests"] = plan.settings.target_ongoing_requests
    if plan.placement.gpu is not None:
        replicas["gpu"] = plan.placement.gpu.name
    return replicas


def _memory(plan: "Plan", fit: "Fit") -> dict[str, Any]:
    budget, unknown = fit.budget, "unknown"
    parts = {
        **_size("weights", budget.weights),
        **_size("engine", budget.engine),
        **_size("kv_cache", budget.kv_cache, unknown),
        **_size("sum", None if budget.kv_cache is None else budget.worker, unknown),
    }
    if plan.device == "gpu":
        return {
            **_size("gpu", budget.capacity, unknown),
            **_size("usable", budget.usable, unknown),
            "each_gpu": parts,
        }
    return {
        **_size("free", budget.capacity, unknown),
        "each_replica": parts,
        **_size("ray", budget.shared),
        **_size("all_replicas_and_ray", budget.shared + budget.workers * budget.worker),
        **_size("left", budget.left, unknown),
    }


def _kv_cache(plan: "Plan", fit: "Fit") -> dict[str, Any]:
    """Sizes and counts of one replica: on several GPUs, the sum of their shares."""
    kv, length, workers = fit.kv, fit.max_model_len, max(1, plan.gpus_per_replica)
    budget = fit.budget.kv_cache
    cache: dict[str, Any] = {
        **_size("budget", None if budget is None else budget * workers, "unknown"),
        **_size("per_token", kv.bytes_per_token * workers),
        "sliding_window": kv.window,
        "block_size": kv.block_size,
        **_size("sequence", kv.bytes_per_sequence(length) * workers),
        **_size("sequence_without_window", fit.kv_full.bytes_per_sequence(length) * workers),
    }
    if kv.window is not None:
        cache |= _size("window_alone", min(kv.window, length) * kv.bytes_per_token * workers)
    if budget is not None:
        cache |= {
            "blocks": kv.blocks(budget),
            "tokens": kv.tokens(budget, length),
            "sequences_of_max_model_len": round(kv.sequences(budget, length), 2),
        }
    return cache


def _endpoints(plan: "Plan") -> dict[str, Any]:
    host, port = plan.settings.server.host, plan.settings.server.port
    url = f"{plan.settings.tls.scheme}://{f'[{host}]' if ':' in host else host}:{port}"
    return {"openai": f"{url}/v1", "health": f"{url}/health", "ports": {"openai": port}}
