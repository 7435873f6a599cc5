"""Which of a model's files are used: configuration, tokenizer and weights, in Hugging Face's or Mistral's own format.

Works on names alone, so a directory and a listing of the hub are read by the same rules.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch

from deploy.errors import UsageError
from deploy.settings import VllmSettings

HF_CONFIG = "config.json"
MISTRAL_CONFIG = "params.json"
VERSIONLESS_TOKENIZER = "tokenizer.model"

_HF_TOKENIZERS = ("tokenizer.json", "vocab.json")
# The file names that mistral-common recognises (mistral_common/tokens/tokenizers/utils.py).
_MISTRAL_TOKENIZERS = ("tekken.json", "*.model.v*", VERSIONLESS_TOKENIZER)
_MISTRAL_WEIGHTS = ("consolidated*.safetensors",)
# In vLLM's order of preference (vllm/model_executor/model_loader/default_loader.py).
_HF_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_TRAINING_STATE = ("training_args.bin", "optimizer.*", "scheduler.*", "scaler.*", "rng_state*")
_HF_EXTRAS = (
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "*.jinja",
    "chat_template.json",
    "quant*config.json",
)


@dataclass(frozen=True)
class Formats:
    """vLLM's format arguments for one model: ``auto`` only where vLLM's own choice is the same."""

    config_format: str
    tokenizer_mode: str
    load_format: str


def resolve(names: Iterable[str], vllm: VllmSettings, where: str) -> Formats:
    """Choose the formats that the files called ``names`` allow and ``vllm`` asks for.

    With both formats present ``auto`` takes Hugging Face's. vLLM would take Mistral's weights and configuration as
    soon as a ``consolidated*.safetensors`` lies there; the explicit arguments keep all three choices together.
    ``where`` names the directory or the hub model in errors.

    Raises:
        UsageError: a file that is needed, or that an explicit format asks for, is not there.
    """
    present = set(names)
    config_format = _config_format(present, vllm.config_format, where)
    return Formats(
        config_format=config_format,
        tokenizer_mode=_tokenizer_mode(present, vllm.tokenizer_mode, where),
        load_format=_load_format(present, vllm.load_format.lower(), config_format, where),
    )


def weight_files(names: Iterable[str], load_format: str) -> list[str]:
    """Names of the files that hold the weights for ``load_format``, sorted; none for ``dummy``."""
    present = sorted(names)
    if load_format == "dummy":
        return []
    if load_format == "mistral":
        return _matching(present, _MISTRAL_WEIGHTS)
    candidates = [name for name in present if not _matches(name, (*_MISTRAL_WEIGHTS, *_TRAINING_STATE))]
    for pattern in _HF_WEIGHTS:
        if found := _matching(candidates, (pattern,)):
            return found
    return []


def index_file(weights: list[str]) -> str:
    """Name of the file that, for a model in several parts like ``weights``, lists the parts."""
    if _matches(weights[0], _MISTRAL_WEIGHTS):
        return "consolidated.safetensors.index.json"
    return "model.safetensors.index.json" if weights[0].endswith(".safetensors") else "pytorch_model.bin.index.json"


def needed_files(names: Iterable[str], formats: Formats) -> list[str]:
    """The subset of a hub model's top-level files that serving it with ``formats`` reads, sorted."""
    present = {name for name in names if "/" not in name}
    weights = weight_files(present, formats.load_format)
    wanted = [HF_CONFIG, MISTRAL_CONFIG] if formats.config_format == "mistral" else [HF_CONFIG]
    wanted += _HF_EXTRAS
    if formats.tokenizer_mode == "mistral":
        wanted += _MISTRAL_TOKENIZERS
    else:
        wanted += _HF_TOKENIZERS
    if weights:
        wanted.append(index_file(weights))
    return sorted({*weights, *_matching(present, wanted)})


def missing_shards(names: Iterable[str]) -> list[str]:
    """Names that a series such as ``model-00001-of-00003.safetensors`` lacks, sorted."""
    present = set(names)
    expected: set[str] = set()
    for name in present:
        if series := re.fullmatch(r"(.+-)(\d{5})-of-(\d{5})(\.\w+)", name):
            stem, _, count, suffix = series.groups()
            expected.update(f"{stem}{number:05d}-of-{count}{suffix}" for number in range(1, int(count) + 1))
    return sorted(expected - present)


def _config_format(present: set[str], wanted: str, where: str) -> str:
    files = {"hf": HF_CONFIG, "mistral": MISTRAL_CONFIG}
    if wanted != "auto":
        if files[wanted] not in present:
            raise UsageError(f"{where} lacks {files[wanted]}, which config_format {wanted!r} reads: leave it at 'auto'")
        return wanted
    for config_format, name in files.items():
        if name in present:
            return config_format
    raise UsageError(f"{where} has neither {HF_CONFIG} nor {MISTRAL_CONFIG}: it does not hold a model vLLM can serve")


def _tokenizer_mode(present: set[str], wanted: str, where: str) -> str:
    hf = bool(_matching(present, _HF_TOKENIZERS))
    mistral = bool(_matching(present, _MISTRAL_TOKENIZERS))
    if wanted == "mistral" and not mistral:
        raise UsageError(f"{where} has no tokenizer of Mistral's own (such as tekken.json): use tokenizer_mode 'hf'")
    if wanted in ("hf", "slow") and not (hf or VERSIONLESS_TOKENIZER in present):
        raise UsageError(f"{where} has no Hugging Face tokenizer (tokenizer.json): use tokenizer_mode 'mistral'")
    if not (hf or mistral):
        raise UsageError(f"{where} lacks a tokenizer (tokenizer.json, tekken.json or tokenizer.model): download it")
    if wanted == "auto":
        return "hf" if hf else "mistral"
    return wanted


def _load_format(present: set[str], wanted: str, config_format: str, where: str) -> str:
    hf = bool(weight_files(present, "hf"))
    mistral = bool(weight_files(present, "mistral"))
    if wanted == "auto" and mistral:
        return "safetensors" if hf and config_format == "hf" else "mistral"
    if wanted != "dummy" and not (mistral if wanted == "mistral" else hf):
        kind = "consolidated*.safetensors" if wanted == "mistral" else "*.safetensors or *.bin"
        raise UsageError(f"{where} has no weights ({kind}) for load_format {wanted!r}: copy or download them")
    return wanted


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    return [name for name in names if _matches(name, patterns)]


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)
