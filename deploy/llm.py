"""Settings → the vocabularies of Ray Serve and Ray Serve LLM: the only place that knows both sides."""

from typing import TYPE_CHECKING, Any

from deploy.settings import Settings

if TYPE_CHECKING:
    from ray.serve.llm import LLMConfig

    from deploy.model import PreparedModel

GIB = 1024**3
REFUSED_AT_ONCE = 256
"""Requests besides those that a replica holds: Ray Serve lets more than all these wait without an answer."""


def engine_arguments(settings: Settings) -> dict[str, Any]:
    """vLLM's engine and frontend arguments, by vLLM's own names; arguments left to vLLM's default are absent.

    ``settings.hardware.device`` must be resolved (``cpu`` or ``gpu``) for the GPU's share of memory to appear.
    """
    vllm, kv_gib = settings.vllm, settings.vllm.kv_cache_gib
    arguments: dict[str, Any] = {
        "dtype": vllm.dtype,
        "max_model_len": vllm.max_model_len,
        "tensor_parallel_size": vllm.tensor_parallel_size,
        "quantization": vllm.quantization,
        "load_format": vllm.load_format,
        "tokenizer_mode": vllm.tokenizer_mode,
        "config_format": vllm.config_format,
        "chat_template": vllm.chat_template,
        # vLLM counts it for each GPU, our setting for the whole replica.
        "kv_cache_memory_bytes": None if kv_gib is None else int(kv_gib * GIB) // vllm.tensor_parallel_size,
        "max_num_seqs": vllm.max_num_seqs,
        "max_num_batched_tokens": vllm.max_num_batched_tokens,
        # vLLM counts the running ones too (AsyncLLM.check_admission).
        "max_num_queued_reqs": vllm.max_num_seqs + vllm.max_num_queued_reqs,
        "enforce_eager": vllm.enforce_eager,
        "enable_prefix_caching": vllm.enable_prefix_caching,
        "seed": vllm.seed,
    }
    if settings.keys_required:
        arguments["scheduling_policy"] = "priority"
    if settings.hardware.device == "gpu":
        arguments["gpu_memory_utilization"] = vllm.gpu_memory_utilization
    return {key: value for key, value in (arguments | settings.engine).items() if value is not None}


def model_arguments(settings: Settings, model: "PreparedModel") -> dict[str, Any]:
    """``engine_arguments`` with what the prepared model's files decide: their formats, and the chat template."""
    arguments = engine_arguments(settings) | {
        "tokenizer_mode": model.tokenizer_mode,
        "config_format": model.config_format,
        "load_format": model.load_format,
    }
    if model.chat_template is not None:
        arguments["chat_template"] = str(model.chat_template)
    return arguments


def worker_bundles(settings: Settings) -> list[dict[str, float]]:
    """Ray's resource bundles of one replica: one for each vLLM worker, the first also holding the replica itself."""
    hardware = settings.hardware
    if hardware.device == "cpu":
        return [{"CPU": float(hardware.cores_per_replica or 1)}]
    bundle = {"CPU": 1.0, "GPU": 1.0}
    if hardware.accelerator_type:
        # The resource that Ray gives to nodes with that GPU (ray.util.accelerators).
        bundle[f"accelerator_type:{hardware.accelerator_type}"] = 0.001
    return [dict(bundle) for _ in range(settings.vllm.tensor_parallel_size)]


def deployment_options(settings: Settings) -> dict[str, Any]:
    """Ray Serve's options of the deployment: replicas, resources, health checks, draining.

    Ray Serve LLM's own defaults would be a target of 1e9 ongoing requests, which never scales, and no bound on them.
    """
    scaling = settings.scaling
    options: dict[str, Any] = {
        "name": "model",
        "max_ongoing_requests": settings.vllm.max_num_seqs + settings.vllm.max_num_queued_reqs + REFUSED_AT_ONCE,
        "health_check_period_s": scaling.health_check_period_s,
        "health_check_timeout_s": scaling.health_check_timeout_s,
        "graceful_shutdown_timeout_s": scaling.drain_timeout_s,
        "graceful_shutdown_wait_loop_s": 1.0,
        "ray_actor_options": {"num_cpus": 0},
        "logging_config": {"enable_access_log": False},
        "placement_group_bundles": worker_bundles(settings),
        "placement_group_strategy": "PACK",
    }
    if not scaling.autoscaling:
        return options | {"num_replicas": scaling.least_replicas}
    return options | {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "initial_replicas": scaling.min_replicas,
            "target_ongoing_requests": settings.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
            "look_back_period_s": scaling.look_back_s,
            "metrics_interval_s": min(2.0, scaling.look_back_s / 2),
        }
    }


def llm_config(settings: Settings, model: "PreparedModel") -> "LLMConfig":
    """What Ray Serve LLM runs in a replica, on the node where the model's files are.

    Raises:
        ValueError: vLLM does not know an argument of ``settings.engine``.
    """
    from ray.serve.llm import LLMConfig

    return LLMConfig(
        model_loading_config={"model_id": model.name, "model_source": str(model.path)},
        engine_kwargs=model_arguments(settings, model),
        accelerator_type=settings.hardware.accelerator_type if settings.hardware.device == "gpu" else None,
        placement_group_config={"bundles": worker_bundles(settings)},
        callback_config={"callback_class": "deploy.server.FilesAreLocal"},
        # vLLM's own metrics then stay on each replica's /metrics under their documented names (`vllm:…`).
        log_engine_metrics=False,
    )
