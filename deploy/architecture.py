"""What a model is made of, as numbers: read from its configuration file, or known for the public Mistral 7B models.

Sources: Mistral 7B (Jiang et al., 2023, arXiv:2310.06825, table 1) and the models' published ``config.json`` and
``params.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from deploy.errors import UsageError

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3fn": 1, "float8_e5m2": 1}


@dataclass(frozen=True)
class Architecture:
    """The shape of one decoder-only transformer with grouped-query attention.

    ``sliding_window`` is in tokens; ``None`` means full attention. ``dtype`` is the format the weights are stored in.
    """

    name: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    sliding_window: int | None
    tie_word_embeddings: bool
    dtype: str

    @property
    def parameters(self) -> int:
        """Number of weights: embeddings, attention (q, k, v, o), the gated MLP, RMSNorms, and the output head."""
        attention = self.hidden_size * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        mlp = 3 * self.hidden_size * self.intermediate_size
        norms = 2 * self.hidden_size
        embeddings = self.vocab_size * self.hidden_size * (1 if self.tie_word_embeddings else 2)
        return self.layers * (attention + mlp + norms) + self.hidden_size + embeddings

    @property
    def weight_bytes(self) -> int:
        """Bytes of all weights in the stored format; a format that is not known counts as two bytes a value."""
        return self.parameters * BYTES_PER_VALUE.get(self.dtype, 2)


@dataclass(frozen=True)
class ModelSource:
    """What ``--model`` stands for, found out without loading, building or downloading it.

    ``directory`` is None while the model is not on this machine, ``architecture`` while only a download could tell it.
    ``weight_bytes`` is the size of the weight files, or computed from the architecture. ``download_bytes`` is 0 when
    nothing is to be fetched and None when that is not known; for a public model that was not asked for at the hub it
    is the computed size of the weights.
    """

    kind: Literal["demo", "hub", "local", "rehearsal"]
    model: str
    name: str
    directory: Path | None
    architecture: Architecture | None
    weight_bytes: int | None
    download_bytes: int | None
    has_chat_template: bool | None
    warnings: tuple[str, ...] = ()


MISTRAL_7B_V01 = Architecture(
    name="MistralForCausalLM",
    hidden_size=4096,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    intermediate_size=14336,
    vocab_size=32000,
    max_position_embeddings=32768,
    sliding_window=4096,
    tie_word_embeddings=False,
    dtype="bfloat16",
)
MISTRAL_7B_V02 = replace(MISTRAL_7B_V01, sliding_window=None)
MISTRAL_7B_V03 = replace(MISTRAL_7B_V02, vocab_size=32768)

_KNOWN = {
    "mistralai/Mistral-7B-v0.1": MISTRAL_7B_V01,
    "mistralai/Mistral-7B-Instruct-v0.1": MISTRAL_7B_V01,
    "mistralai/Mistral-7B-Instruct-v0.2": MISTRAL_7B_V02,
    "mistralai/Mistral-7B-v0.3": MISTRAL_7B_V03,
    "mistralai/Mistral-7B-Instruct-v0.3": MISTRAL_7B_V03,
}


def known(model_id: str) -> Architecture | None:
    """The architecture of a public Mistral 7B model, from its published ``config.json``; None for any other id."""
    return _KNOWN.get(model_id)


def from_hf_config(config: Mapping[str, Any], where: str = "config.json") -> Architecture:
    """Read a ``config.json`` as transformers 4 (``torch_dtype``) or 5 (``dtype``, ``layer_types``) writes it.

    Defaults are those of transformers' ``MistralConfig``: ``head_dim`` is ``hidden_size`` over the heads, embeddings
    are untied, no stated format is float32. A model in which only some layers have a window counts as full attention,
    which never underestimates its memory. ``where`` names the file in errors.

    Raises:
        UsageError: a field is missing or has no usable value.
    """
    fields = _Fields(config, where)
    architectures = config.get("architectures")
    name = architectures[0] if isinstance(architectures, list) and architectures else config.get("model_type")
    full_attention = config.get("use_sliding_window") is False or "full_attention" in (config.get("layer_types") or ())
    dtype = config.get("dtype") or config.get("torch_dtype") or "float32"
    return fields.architecture(
        name=str(name or "unknown"),
        hidden_size=fields.count("hidden_size"),
        layers=fields.count("num_hidden_layers"),
        heads=fields.count("num_attention_heads"),
        kv_heads=fields.count("num_key_value_heads"),
        head_dim=fields.optional_count("head_dim"),
        intermediate_size=fields.count("intermediate_size"),
        max_position_embeddings=fields.count("max_position_embeddings"),
        sliding_window=None if full_attention else fields.optional_count("sliding_window"),
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        dtype=str(dtype).removeprefix("torch."),
    )


def from_mistral_params(params: Mapping[str, Any], where: str = "params.json") -> Architecture:
    """Read a ``params.json``, Mistral's own format.

    Defaults are vLLM's for this format (``vllm/transformers_utils/configs/mistral.py``): 128,000 positions and untied
    embeddings; no stated format is bfloat16, in which Mistral publishes. ``where`` names the file in errors.

    Raises:
        UsageError: a field is missing or has no usable value.
    """
    fields = _Fields(params, where)
    window = params.get("sliding_window")
    return fields.architecture(
        name="MistralForCausalLM",
        hidden_size=fields.count("dim"),
        layers=fields.count("n_layers"),
        heads=fields.count("n_heads"),
        kv_heads=fields.count("n_kv_heads"),
        head_dim=fields.optional_count("head_dim"),
        intermediate_size=fields.count("hidden_dim"),
        max_position_embeddings=fields.optional_count("max_position_embeddings") or 128_000,
        sliding_window=None if isinstance(window, list) else fields.optional_count("sliding_window"),
        tie_word_embeddings=fields.flag("tied_embeddings"),
        dtype=str(params.get("dtype") or "bfloat16").removeprefix("torch."),
    )


class _Fields:
    """Reads the values of one configuration file; every error names the file, the field and what was found."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def count(self, field: str) -> int:
        if self._values.get(field) is None:
            raise UsageError(f"{self._where} lacks {field!r}: a complete configuration of a Mistral-like model has it")
        value = self._values[field]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UsageError(f"{self._where} has {field!r} = {value!r}: it must be a whole number of at least 1")
        return value

    def optional_count(self, field: str) -> int | None:
        return None if self._values.get(field) is None else self.count(field)

    def flag(self, field: str) -> bool:
        value = self._values.get(field)
        if value is not None and not isinstance(value, bool):
            raise UsageError(f"{self._where} has {field!r} = {value!r}: it must be true or false")
        return bool(value)

    def architecture(
        self, *, hidden_size: int, heads: int, kv_heads: int, head_dim: int | None, **others: Any
    ) -> Architecture:
        if heads % kv_heads:
            raise UsageError(f"{self._where} shares {kv_heads} KV heads among {heads} heads: that must divide evenly")
        if head_dim is None and hidden_size % heads:
            raise UsageError(f"{self._where} lacks 'head_dim', and {heads} heads do not divide {hidden_size} evenly")
        return Architecture(
            hidden_size=hidden_size,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim or hidden_size // heads,
            vocab_size=self.count("vocab_size"),
            **others,
        )
