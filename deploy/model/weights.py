"""Whether a directory's weight files are all there and whole, told from their names, sizes and headers."""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.errors import UsageError
from deploy.model.formats import index_file, missing_shards, weight_files

# The limit that the safetensors library itself sets on a header.
_MAX_HEADER_BYTES = 100_000_000
_LFS_POINTER = b"version https://git-lfs"
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}


@dataclass(frozen=True)
class Weights:
    """Size of the weight files in bytes, and the format that most of their bytes are in (None: cannot be told)."""

    total_bytes: int
    dtype: str | None


def check_weights(directory: Path, load_format: str) -> Weights:
    """Check the weight files that ``load_format`` reads, of which there must be at least one.

    Raises:
        UsageError: a shard is missing, truncated or not a weight file.
    """
    names = weight_files([path.name for path in directory.iterdir()], load_format)
    index = directory / index_file(names)
    if index.is_file():
        names = _indexed(index)
    missing = sorted(name for name in names if not (directory / name).is_file()) or missing_shards(names)
    if missing:
        raise UsageError(
            f"{directory} lacks {len(missing)} of its weight files ({', '.join(missing[:3])}"
            f"{', …' if len(missing) > 3 else ''}): copy or download them again"
        )
    bytes_of: Counter[str] = Counter()
    for name in names:
        bytes_of += _check_file(directory / name)
    most_common = bytes_of.most_common(1)
    return Weights(
        total_bytes=sum((directory / name).stat().st_size for name in names),
        dtype=_DTYPES.get(most_common[0][0]) if most_common else None,
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: the file cannot be read, or holds anything but one JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror}): check its permissions") from error
    except ValueError as error:
        raise UsageError(f"{path} is not valid JSON ({error}): copy or download it again") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds {type(content).__name__} instead of a JSON object: copy or download it again")
    return content


def _indexed(index: Path) -> list[str]:
    files = read_json(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise UsageError(f"{index} has no 'weight_map': copy or download it again")
    return sorted({str(name) for name in files.values()})


def _check_file(path: Path) -> Counter[str]:
    """Bytes of tensors by safetensors dtype; empty for other formats, of which only the emptiness can be told."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise UsageError(f"{path} is a Git LFS pointer instead of the weights: run `git lfs pull` in its directory")
        if not start:
            raise UsageError(f"{path} is empty: copy or download it again")
        if path.suffix != ".safetensors":
            return Counter()
        header_bytes = int.from_bytes(start[:8], "little")
        if header_bytes > min(_MAX_HEADER_BYTES, size - 8):
            raise UsageError(f"{path} is cut short or is no safetensors file: copy or download it again")
        file.seek(8)
        header = file.read(header_bytes)
    tensors = _parse_header(path, header)
    expected = 8 + header_bytes + max((end for _, _, end in tensors), default=0)
    if size != expected:
        raise UsageError(f"{path} has {size:,} bytes where its header tells {expected:,}: copy or download it again")
    bytes_of: Counter[str] = Counter()
    for dtype, begin, end in tensors:
        bytes_of[dtype] += end - begin
    return bytes_of


def _parse_header(path: Path, header: bytes) -> list[tuple[str, int, int]]:
    """(dtype, begin, end) of every tensor, as huggingface.co/docs/safetensors describes the header."""
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        offsets = ((entry["dtype"], *entry["data_offsets"]) for entry in entries.values())
        return [(str(dtype), int(begin), int(end)) for dtype, begin, end in offsets]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} has an unreadable safetensors header: copy or download it again") from error
