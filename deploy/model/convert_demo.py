"""The demo model's conversion, run as a program of its own: ``convert_demo.py SOURCE.gguf DESTINATION``.

Its own process, so that the memory that torch takes is gone afterwards. Reads the quantised file, writes bf16 weights,
and describes them as what they are in shape: a Mistral model. Llama's and Mistral's weights bear the same names and
mean the same; what Mistral adds is the sliding window.
"""

import json
import os
import sys
import threading
from pathlib import Path

SLIDING_WINDOW = 1024
_LLAMA_ONLY = ("_name_or_path", "_model_name_or_path", "attention_bias", "mlp_bias", "pretraining_tp")


def main() -> None:
    """Convert the file named by the first argument into the existing directory named by the second."""
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    source, destination = (Path(argument) for argument in sys.argv[1:3])
    _convert(source, destination)
    config_file = destination / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config_file.write_text(json.dumps(as_mistral(config), indent=2) + "\n", encoding="utf-8")


def as_mistral(config: dict[str, object]) -> dict[str, object]:
    """A Llama ``config.json`` as a Mistral one with a sliding window."""
    kept = {key: value for key, value in config.items() if key not in _LLAMA_ONLY}
    return kept | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": SLIDING_WINDOW,
    }


def _convert(source: Path, destination: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    directory, name = str(source.parent), source.name
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=name)
    model = AutoModelForCausalLM.from_pretrained(
        directory, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer.save_pretrained(destination)
    model.save_pretrained(destination)


def _exit_with_parent() -> None:
    """End when standard input does: whoever started this process and held the other end is gone, even by SIGKILL."""
    sys.stdin.read()
    os._exit(1)


if __name__ == "__main__":
    main()
