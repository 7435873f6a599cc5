"""What the other load generators need: an environment of its own for each, and a tokenizer that needs no network."""

import json
import subprocess
import sys
import venv
from pathlib import Path

from tests.bench.errors import BenchError
from tests.bench.progress import say

PINS = Path(__file__).parent
FOLDER = Path("results/generators")
"""Of environments and artefacts, relative to the project. ``make clean`` removes it."""
WORDS = 1000


def environment(name: str) -> Path:
    """The ``bin`` folder of the environment with the packages of ``NAME.txt``, made where it is not there yet.

    Raises:
        BenchError: pip could not install them.
    """
    pins = (PINS / f"{name}.txt").read_text(encoding="utf-8")
    folder = (FOLDER / name).absolute()
    stamp = folder / "installed.txt"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != pins:
        say(f"installing {name} into {folder}")
        venv.create(folder, with_pip=True, clear=True)
        # --no-deps: the sets are complete, and GuideLLM's torch would bring several GB of CUDA.
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "-q", "--no-deps"]
        command = [*pip, "-r", str(PINS / f"{name}.txt")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise BenchError(f"{name} could not be installed: {done.stderr.strip().rpartition(chr(10))[2]}")
        stamp.write_text(pins, encoding="utf-8")
    return folder / "bin"


def version(python: Path, package: str) -> str:
    """The version of an installed package."""
    program = f"import importlib.metadata; print(importlib.metadata.version({package!r}))"
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def own_python() -> Path:
    """The interpreter that runs the bench."""
    return Path(sys.executable)


def tokenizer() -> Path:
    """A folder with a tokenizer of whole words, which is what the mock server counts."""
    # Imported late: they take seconds, and the other parts of the bench do not need them.
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = (FOLDER / "tokenizer").absolute()
    vocabulary = {
        word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *(f"w{n}" for n in range(WORDS))])
    }
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    ).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "mistral"}), encoding="utf-8")
    return folder
