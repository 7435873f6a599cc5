"""The rehearsal: Mistral-7B-v0.1's shape and tokenizer with random weights, so that no weights file is needed."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

from deploy.architecture import MISTRAL_7B_V01, Architecture
from deploy.errors import StartError, UsageError
from deploy.model.cache import Progress, build_once
from deploy.model.directory import read_directory
from deploy.model.formats import Formats
from deploy.settings import DEMO_MODEL, Settings, VllmSettings

MODEL_ID = "mistralai/Mistral-7B-v0.1"
# transformers 5 reads a bare SentencePiece file without the leading space that Mistral's tokens need, and adds no <s>.
FORMATS = Formats(config_format="hf", tokenizer_mode="mistral", load_format="dummy")

_RECIPE = 1
_TOKENIZER = "tokenizer.model.v1"


def rehearsed_architecture(settings: Settings) -> Architecture:
    """Mistral-7B-v0.1 with as many layers as the settings ask for.

    Raises:
        UsageError: the settings name another model.
    """
    if settings.model not in (DEMO_MODEL, MODEL_ID):
        raise UsageError(f"--rehearse serves the architecture of {MODEL_ID} only: leave out --model {settings.model!r}")
    return replace(MISTRAL_7B_V01, layers=settings.rehearse_layers)


def rehearsal_directory(models: Path, layers: int) -> Path:
    """Where the rehearsal with this many layers lies, or would, under the directory of built models."""
    return models / f"rehearsal-{layers}-layers-v{_RECIPE}"


def build_rehearsal(models: Path, architecture: Architecture, progress: Progress) -> Path:
    """Write the rehearsal's directory unless it is there; returns it.

    Raises:
        UsageError: the cache directory cannot be written to.
        StartError: mistral-common, which carries the tokenizer, is not installed.
    """

    def build(work: Path) -> None:
        (work / "config.json").write_text(json.dumps(_config(architecture), indent=2) + "\n", encoding="utf-8")
        shutil.copyfile(_tokenizer_file(), work / _TOKENIZER)

    def is_complete(directory: Path) -> bool:
        try:
            return read_directory(directory, VllmSettings(load_format="dummy")).architecture == architecture
        except UsageError:
            return False

    return build_once(rehearsal_directory(models, architecture.layers), build, is_complete, progress)


def _tokenizer_file() -> Path:
    """The v0.1 tokenizer inside mistral-common (Apache-2.0), found without importing it."""
    package = importlib.util.find_spec("mistral_common")
    file = Path(package.origin).parent / "data" / _TOKENIZER if package and package.origin else None
    if file is None or not file.is_file():
        raise StartError(f"mistral-common with its {_TOKENIZER} was not found: install the pinned requirements")
    return file


def _config(architecture: Architecture) -> dict[str, object]:
    """The published ``config.json`` of Mistral-7B-v0.1 with this architecture's numbers."""
    return {
        "architectures": [architecture.name],
        "model_type": "mistral",
        "hidden_size": architecture.hidden_size,
        "num_hidden_layers": architecture.layers,
        "num_attention_heads": architecture.heads,
        "num_key_value_heads": architecture.kv_heads,
        "head_dim": architecture.head_dim,
        "intermediate_size": architecture.intermediate_size,
        "vocab_size": architecture.vocab_size,
        "max_position_embeddings": architecture.max_position_embeddings,
        "sliding_window": architecture.sliding_window,
        "tie_word_embeddings": architecture.tie_word_embeddings,
        "torch_dtype": architecture.dtype,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "use_cache": True,
    }
