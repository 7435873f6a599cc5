"""vLLM's further engine arguments, checked before anything starts: their names always, their values before a start.

The names are read from vLLM's source, because importing vLLM takes seconds. The values are checked by vLLM's own types,
in a process of its own, so that this one stays free of vLLM. ``python -m deploy.engine_arguments`` reads the arguments
as one JSON object from stdin and writes the mistakes, one sentence each, as a JSON list in its last line.
"""

import ast
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from deploy.errors import StartError, UsageError
from deploy.plan.report import SECRET_ARGUMENTS
from deploy.schema import shown
from deploy.settings import Settings

# Where vLLM 0.29 defines its dataclasses of arguments, relative to the package.
_SOURCES = ("engine/arg_utils.py", "entrypoints/launchers/cli_args.py")
_CLASSES = {"EngineArgs", "AsyncEngineArgs", "BaseFrontendArgs", "FrontendArgs"}
# vLLM reads these as the field of a configuration, by its validator (engine/arg_utils.py, create_engine_config).
_FIELD_OF = {"attention_backend": ("attention_config", "backend"), "mamba_backend": ("mamba_config", "backend")}


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
    """Refuse an engine argument that the installed vLLM does not know; takes milliseconds.

    Raises:
        UsageError: names the argument and the nearest known one.
    """
    names = known_names() if settings.engine else frozenset()
    for key in settings.engine:
        if names and key not in names:
            nearest = get_close_matches(key, names, n=1)
            remedy = f"did you mean {nearest[0]!r}?" if nearest else "vLLM's documentation lists them"
            raise UsageError(f"vLLM has no engine argument {key!r}: {remedy}")


def check_values(settings: Settings) -> None:
    """Refuse engine arguments whose values the installed vLLM does not take.

    Without further engine arguments this does nothing; with some it takes as long as importing vLLM does, and says so
    on stderr. Arguments that only exclude each other, or do not suit the model, are refused by vLLM when it starts.

    Raises:
        UsageError: one sentence for each argument: its name, its value, and what vLLM says to it.
        StartError: vLLM cannot be imported.
    """
    if not settings.engine:
        return
    print("checking the engine arguments with vLLM", file=sys.stderr, flush=True)
    result = subprocess.run(
        [sys.executable, "-m", "deploy.engine_arguments"],
        input=json.dumps(settings.model_dump(mode="json")["engine"]),
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        cause = result.stderr.strip().splitlines()[-1:] or [f"exit code {result.returncode}"]
        raise StartError(f"vLLM cannot check its engine arguments: {cause[0]}")
    found = json.loads(result.stdout.splitlines()[-1])
    if found:
        raise UsageError("; ".join(found))


def mistakes(arguments: Mapping[str, Any]) -> list[str]:
    """What vLLM does not take of ``arguments``, one sentence for each wrong one. Imports vLLM.

    The values are held to the types that vLLM declares, as JSON and strictly: vLLM's dataclass of arguments converts
    nothing, so the text ``'32'`` is no number to it.
    """
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    types = {field.name: field.type for owner in (FrontendArgs, AsyncEngineArgs) for field in dataclasses.fields(owner)}
    found = []
    for name, value in arguments.items():
        if value is None:
            continue  # The same as leaving it out.
        owner, field = _FIELD_OF.get(name, (name, None))
        nested = value if field is None else {field: value}
        try:
            TypeAdapter(_bounded(owner, types[owner])).validate_json(json.dumps(nested), strict=True)
        except ValidationError as error:
            found.append(_sentence(name, value, error))
        except PydanticUserError:
            continue  # A type that pydantic cannot check, such as torch's: vLLM checks it when it starts.
    return found


def _bounded(name: str, kind: Any) -> Any:
    """The type with the bounds that vLLM sets where the argument ends: on a configuration's field of that name."""
    import vllm.config

    for owner in vars(vllm.config).values():
        field = getattr(owner, "__pydantic_fields__", {}).get(name)
        if field is not None and field.metadata:
            return Annotated[(kind, *field.metadata)]
    return kind


def _sentence(name: str, value: Any, error: ValidationError) -> str:
    """The first of the errors, with the part of the value that it is about."""
    detail = error.errors(include_url=False)[0]
    path = name
    # Steps that lead nowhere in the value name a member of a union, or the field that stands for the argument.
    for step in detail["loc"]:
        inside = isinstance(value, dict) and step in value
        if inside or (isinstance(value, list) and isinstance(step, int)):
            path, value = f"{path}.{step}", value[step]
        elif detail["type"] == "missing":
            path, value = f"{path}.{step}", None
    said = " ".join(detail["msg"].removeprefix("Value error, ").replace("Input", "it", 1).split())
    value_shown = "(hidden)" if name in SECRET_ARGUMENTS else shown(value)
    return f"engine argument {path} is {value_shown}: vLLM says {said[:1].lower()}{said[1:]}"


if __name__ == "__main__":
    print(json.dumps(mistakes(json.load(sys.stdin))))
