"""Small model directories for tests: real file formats, tiny tensors."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG: dict[str, Any] = {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
    "max_position_embeddings": 512,
    "sliding_window": 256,
    "torch_dtype": "bfloat16",
}
PARAMS: dict[str, Any] = {
    "dim": 64,
    "n_layers": 2,
    "head_dim": 16,
    "hidden_dim": 128,
    "n_heads": 4,
    "n_kv_heads": 2,
    "norm_eps": 1e-05,
    "vocab_size": 1000,
}


def safetensors(dtype: str = "BF16", values: int = 8, bytes_per_value: int = 2) -> bytes:
    """A safetensors file with one tensor of zeros."""
    size = values * bytes_per_value
    header = json.dumps({"__metadata__": {}, "w": {"dtype": dtype, "shape": [values], "data_offsets": [0, size]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(size)


def index(*shards: str) -> bytes:
    """An index file that puts one tensor into each shard."""
    return json.dumps({"metadata": {}, "weight_map": {f"w{n}": shard for n, shard in enumerate(shards)}}).encode()


def hf_files(**replaced: bytes | None) -> dict[str, bytes]:
    """Files of a complete Hugging Face model; a keyword ``config_json=b"…"`` replaces that file, None leaves it out."""
    files = {
        "config.json": json.dumps(CONFIG).encode(),
        "tokenizer.json": b"{}",
        "tokenizer_config.json": b"{}",
        "model.safetensors": safetensors(),
    }
    return _replaced(files, replaced)


def mistral_files(**replaced: bytes | None) -> dict[str, bytes]:
    """Files of a complete model in Mistral's own format."""
    files = {
        "params.json": json.dumps(PARAMS).encode(),
        "tekken.json": b"{}",
        "consolidated.safetensors": safetensors(),
    }
    return _replaced(files, replaced)


def write(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write the files into ``directory``, which is made; returns it."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def _replaced(files: dict[str, bytes], replaced: Mapping[str, bytes | None]) -> dict[str, bytes]:
    by_name = {name.replace(".", "_"): name for name in files}
    for keyword, content in replaced.items():
        name = by_name[keyword]
        if content is None:
            del files[name]
        else:
            files[name] = content
    return files
