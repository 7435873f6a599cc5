"""The names of vLLM's engine arguments, read from its source: importing vLLM would take seconds."""

import ast
import importlib.util
from difflib import get_close_matches
from pathlib import Path

from deploy.errors import UsageError
from deploy.settings import Settings

# Where vLLM 0.29 defines its dataclasses of arguments, relative to the package.
_SOURCES = ("engine/arg_utils.py", "entrypoints/launchers/cli_args.py")
_CLASSES = {"EngineArgs", "AsyncEngineArgs", "BaseFrontendArgs", "FrontendArgs"}


def known_names() -> frozenset[str]:
    """Every engine and frontend argument of the installed vLLM; empty where vLLM is not installed."""
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        return frozenset()
    package = Path(spec.origin).parent
    return frozenset(name for source in _SOURCES for name in _fields(package / source))


def _fields(source: Path) -> list[str]:
    module = ast.parse(source.read_text())
    classes = [node for node in module.body if isinstance(node, ast.ClassDef) and node.name in _CLASSES]
    lines = [line for node in classes for line in node.body if isinstance(line, ast.AnnAssign)]
    return [line.target.id for line in lines if isinstance(line.target, ast.Name)]


def check(settings: Settings) -> None:
    """Refuse an engine argument that the installed vLLM does not know.

    Raises:
        UsageError: names the argument and the nearest known one.
    """
    names = known_names() if settings.engine else frozenset()
    for key in settings.engine:
        if names and key not in names:
            nearest = get_close_matches(key, names, n=1)
            remedy = f"did you mean {nearest[0]!r}?" if nearest else "vLLM's documentation lists them"
            raise UsageError(f"--engine {key}: vLLM has no engine argument of that name; {remedy}")
