"""A directory that holds a model: its architecture, its formats, and whether all its files are there."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.architecture import Architecture, from_hf_config, from_mistral_params
from deploy.errors import UsageError
from deploy.model.formats import HF_CONFIG, MISTRAL_CONFIG, VERSIONLESS_TOKENIZER, Formats, resolve
from deploy.model.weights import check_weights, read_json
from deploy.settings import VllmSettings


@dataclass(frozen=True)
class ModelDirectory:
    """A complete model on this machine. ``weight_bytes`` is the files' size, computed where no weights are read."""

    path: Path
    architecture: Architecture
    formats: Formats
    weight_bytes: int
    has_chat_template: bool
    warnings: tuple[str, ...]


def read_directory(path: Path, vllm: VllmSettings) -> ModelDirectory:
    """Check the directory ``path`` and read what it holds; its weights are needed unless ``load_format`` is ``dummy``.

    Raises:
        UsageError: it is no directory, or its configuration, tokenizer or weights are missing, incomplete or invalid.
    """
    try:
        return _read(path, vllm)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise UsageError(f"{error.filename or path} cannot be read ({reason}): check its permissions") from error


def _read(path: Path, vllm: VllmSettings) -> ModelDirectory:
    if not path.exists():
        raise UsageError(f"model directory {path} does not exist: check the path given to --model")
    if not path.is_dir():
        raise UsageError(f"model {path} is a file: give the directory that holds config.json and the weights")
    names = {entry.name for entry in path.iterdir() if entry.is_file()}
    formats = resolve(names, vllm, str(path))
    architecture, dtype_stated = read_architecture(path, formats.config_format)
    if formats.load_format == "dummy":
        weight_bytes = architecture.weight_bytes
    else:
        weights = check_weights(path, formats.load_format)
        weight_bytes = weights.total_bytes
        if not dtype_stated and weights.dtype:
            architecture = replace(architecture, dtype=weights.dtype)
    return ModelDirectory(
        path=path,
        architecture=architecture,
        formats=formats,
        weight_bytes=weight_bytes,
        has_chat_template=formats.tokenizer_mode == "mistral" or _own_template(path, names),
        warnings=_warnings(path, names, formats),
    )


def read_architecture(path: Path, config_format: str) -> tuple[Architecture, bool]:
    """The architecture that the directory's configuration describes, and whether it states the weights' format.

    Raises:
        UsageError: the configuration is missing, no JSON, or lacks a field.
    """
    if config_format == "mistral":
        params = _inherited(path) | read_json(path / MISTRAL_CONFIG)
        return from_mistral_params(params, str(path / MISTRAL_CONFIG)), bool(params.get("dtype"))
    config = read_json(path / HF_CONFIG)
    return from_hf_config(config, str(path / HF_CONFIG)), bool(config.get("dtype") or config.get("torch_dtype"))


def _inherited(path: Path) -> dict[str, Any]:
    """What vLLM takes from ``config.json``, where there is one, when ``params.json`` does not say it."""
    if not (path / HF_CONFIG).is_file():
        return {}
    config = read_json(path / HF_CONFIG)
    return {key: config[key] for key in ("max_position_embeddings", "sliding_window", "dtype") if key in config}


def _own_template(path: Path, names: set[str]) -> bool:
    if "chat_template.jinja" in names:
        return True
    config: dict[str, Any] = read_json(path / "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    return bool(config.get("chat_template"))


def _warnings(path: Path, names: set[str], formats: Formats) -> tuple[str, ...]:
    versioned = "tekken.json" in names or any(name.startswith(f"{VERSIONLESS_TOKENIZER}.v") for name in names)
    if formats.tokenizer_mode == "mistral" and not versioned:
        return (
            f"{path / VERSIONLESS_TOKENIZER} carries no version and is read as v1: rename it, for example to "
            f"{VERSIONLESS_TOKENIZER}.v3, when the model is newer than Mistral-7B-Instruct-v0.1",
        )
    return ()
