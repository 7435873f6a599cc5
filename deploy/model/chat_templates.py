"""Which chat template a model is served with: the one asked for, its own, or one that ships with the product."""

from pathlib import Path

from deploy.errors import UsageError

_DIRECTORY = Path(__file__).with_name("templates")
BASE = "base"


def shipped() -> dict[str, Path]:
    """The templates that ship with the product, by name."""
    return {path.stem: path for path in sorted(_DIRECTORY.glob("*.jinja"))}


def requested_template(name: str | None, tokenizer_mode: str) -> Path | None:
    """The template that ``vllm.chat_template`` names: a shipped one or a file; None when it names nothing.

    Raises:
        UsageError: there is no such template, or the tokenizer is Mistral's own, with which vLLM accepts none.
    """
    if name is None:
        return None
    if tokenizer_mode == "mistral":
        raise UsageError(
            f"chat_template {name!r} cannot be used with Mistral's own tokenizer, which lays out chats itself: "
            "leave it out, or set tokenizer_mode to 'hf'"
        )
    file = shipped().get(name, Path.home() / name[2:] if name.startswith("~/") else Path(name))
    if not file.is_file():
        raise UsageError(
            f"chat_template {name!r} is neither a file nor one that ships with the product ({', '.join(shipped())})"
        )
    return file.resolve()


def choose_template(requested: Path | None, *, has_own: bool) -> Path | None:
    """The file to hand to vLLM; None where the model's own template is used. A model without one gets ``base``."""
    if requested is None and not has_own:
        return shipped()[BASE]
    return requested
