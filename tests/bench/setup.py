"""What is measured: one set of settings, and from it the same engine arguments for every system."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.cli import plan_for, resolve
from deploy.llm import model_arguments
from deploy.loading import load
from deploy.machine import measure
from deploy.model import prepare
from tests.bench.progress import say

PROFILE_FLAGS = ("--profile", "demo")


@dataclass(frozen=True)
class Setup:
    """One model and its engine arguments. ``flags`` are serve.py's, ``arguments`` what its replica hands to vLLM."""

    flags: tuple[str, ...]
    name: str
    model: Path
    arguments: dict[str, Any]
    cores: tuple[int, ...]
    log_level: str


def make_setup(*flags: str) -> Setup:
    """The demo profile with further ``flags`` of serve.py; builds the demo model when it is not there yet.

    Raises:
        UsageError: the flags are wrong, or the machine cannot hold such a deployment.
    """
    chosen = (*PROFILE_FLAGS, *flags)
    settings = load(argv=chosen)
    machine = measure()
    settings = resolve(settings, plan_for(settings, machine, starting=True))
    model = prepare(settings, say)
    arguments = model_arguments(settings, model)
    return Setup(chosen, model.name, model.path, arguments, machine.cores, settings.log.engine_level.upper())


def as_flags(arguments: Mapping[str, Any]) -> list[str]:
    """vLLM's engine arguments as flags of its command line; a mapping or list becomes JSON, False ``--no-…``."""
    flags = []
    for key, value in arguments.items():
        name = key.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        else:
            flags += [f"--{name}", json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return flags


def shell_line(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """A command with its own environment variables, as one types it."""
    variables = [f"{name}={shlex.quote(value)}" for name, value in environment.items()]
    return " ".join([*variables, shlex.join(command)])
