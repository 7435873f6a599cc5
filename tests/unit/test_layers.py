"""Prevents a module from reaching up into what is built on it, and an import from doing work of its own."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"ray", "vllm", "torch", "transformers"}
"""What takes seconds to import, and what planning must not need."""

# What a chain names later may import what it names earlier, directly or not; never the other way round.
CHAINS = [
    ["errors", "settings", "schema", "profiles", "flags", "sources", "loading"],
    ["settings", "plan", "cli"],
    ["settings", "model", "cli"],
    ["settings", "llm", "server", "replica", "app", "lifecycle", "supervisor", "cli", "serve"],
    ["gateway", "server", "replica"],
]
# Everything of this project that these may import, besides their own files.
ONLY = {
    "errors": set[str](),
    "settings": set[str](),
    "compiler": set[str](),
    "machine": {"compiler"},
    "architecture": {"errors"},
    "schema": {"settings"},
    "plan": {"settings", "architecture", "machine", "errors"},
    "model": {"settings", "architecture", "errors"},
    "strict_yaml": {"errors"},
    "gateway": {"settings", "metrics", "errors", "strict_yaml"},
}
# The only modules that cannot be imported without ray; none needs vllm, torch or transformers for that.
NEEDS_RAY = {"deploy.app", "deploy.server"}


@dataclass(frozen=True)
class Import:
    """One imported module. ``later``: inside a function, so not when the importing module is imported."""

    name: str
    later: bool


@cache
def files(folder: str) -> dict[str, Path]:
    """Every module under a top-level folder by its dotted name, ``serve.py`` among those of ``deploy``."""
    found = {}
    for file in sorted((ROOT / folder).rglob("*.py")):
        parts = file.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found | ({"serve": ROOT / "serve.py"} if folder == "deploy" else {})


@cache
def imports(folder: str, module: str) -> tuple[Import, ...]:
    """What a module imports, except for type checkers only; relative imports are not used here."""
    return tuple(_imports(ast.parse(files(folder)[module].read_text(encoding="utf-8")), folder, later=False))


def _imports(node: ast.AST, folder: str, *, later: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, later) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield Import(inner if inner in files(folder) else str(child.module), later)
        is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, folder, later=later or is_function)


def unit(module: str) -> str:
    """The layer that a module belongs to: ``plan`` for ``deploy.plan.kv``, ``serve`` for ``serve.py``."""
    return module.removeprefix("deploy.").partition(".")[0]


def own_imports(module: str) -> set[str]:
    """The modules of this project that a module imports, when it is imported or later."""
    return {found.name for found in imports("deploy", module)} & set(files("deploy"))


def reachable(start: str) -> set[str]:
    """The layers that a layer imports, directly or through others."""
    edges: dict[str, set[str]] = {}
    for module in files("deploy"):
        edges.setdefault(unit(module), set()).update(unit(name) for name in own_imports(module))
    found, waiting = set[str](), [start]
    while waiting:
        new = edges.get(waiting.pop(), set()) - found
        found |= new
        waiting += new
    return found


def heavy_when_imported(module: str, seen: frozenset[str] = frozenset()) -> set[str]:
    """The heavy packages that importing a module imports."""
    names = {found.name for found in imports("deploy", module) if not found.later}
    own = (names & set(files("deploy"))) - seen
    inner = [heavy_when_imported(name, seen | own | {module}) for name in own]
    return {name.partition(".")[0] for name in names} & HEAVY | set().union(*inner)


@pytest.mark.parametrize("chain", CHAINS, ids=" <- ".join)
def test_no_layer_reaches_one_that_is_built_on_it(chain: list[str]) -> None:
    assert set(chain) <= {unit(module) for module in files("deploy")}
    upward = {(low, high) for i, low in enumerate(chain) for high in chain[i + 1 :] if high in reachable(low)}
    assert upward == set()


@pytest.mark.parametrize("layer", ONLY)
def test_a_closed_layer_imports_only_what_it_may(layer: str) -> None:
    modules = [module for module in files("deploy") if unit(module) == layer]
    found = {(module, name) for module in modules for name in own_imports(module)}
    assert {(module, name) for module, name in found if unit(name) not in ONLY[layer] | {layer}} == set()
    assert modules


def test_no_modules_import_each_other_in_a_circle() -> None:
    sorter = TopologicalSorter({module: own_imports(module) for module in files("deploy")})
    try:
        sorter.prepare()
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' <- '.join(error.args[1])}")
    assert sorter.is_active()


def test_the_product_imports_neither_the_load_tests_nor_the_tests() -> None:
    names = {(module, found.name) for module in files("deploy") for found in imports("deploy", module)}
    assert {pair for pair in names if pair[1].partition(".")[0] in {"loadtest", "tests"}} == set()


def test_the_load_tests_do_not_import_the_product() -> None:
    names = {(module, found.name) for module in files("loadtest") for found in imports("loadtest", module)}
    assert {pair for pair in names if pair[1].partition(".")[0] in {"deploy", "serve"}} == set()


def test_only_what_runs_on_ray_needs_ray_to_be_imported() -> None:
    needed = {module: heavy_when_imported(module) for module in files("deploy")}
    assert {module: heavy for module, heavy in needed.items() if heavy} == {module: {"ray"} for module in NEEDS_RAY}


PROBE = """
import importlib, json, logging, os, signal, sys, threading
import prometheus_client  # copies the whole environment when imported

class Environ(os._Environ):
    read = []
    def __getitem__(self, key):
        if key.startswith(("MISTRAL_SERVE_", "RAY_")):
            self.read.append(key)
        return super().__getitem__(key)

def state():
    loggers = [one for one in logging.root.manager.loggerDict.values() if isinstance(one, logging.Logger)]
    return {
        "variables read": list(Environ.read),
        "handlers of the root logger": [repr(handler) for handler in logging.root.handlers],
        "level of the root logger": logging.root.level,
        "own loggers set up": [one.name for one in loggers if one.name.split(".")[0] in ("deploy", "mistral-serve")
                               and (one.handlers or one.level)],
        "threads": [thread.name for thread in threading.enumerate()],
        "child processes": open(f"/proc/self/task/{os.getpid()}/children").read().split(),
        "sockets": [name for name in map(link, os.listdir("/proc/self/fd")) if name.startswith("socket:")],
        "signal handlers": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)],
        "working directory": os.getcwd(),
    }

def link(number):
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""

old = os.environ
os.environ = Environ(old._data, old.encodekey, old.decodekey, old.encodevalue, old.decodevalue)
sys.modules.update(dict.fromkeys(("ray", "vllm", "torch", "transformers")))
changes = {}
for name in json.load(sys.stdin):
    before = state()
    importlib.import_module(name)
    after = state()
    changes[name] = {what: after[what] for what in after if after[what] != before[what]}
json.dump({name: change for name, change in changes.items() if change}, sys.stdout)
"""


def test_importing_a_module_starts_nothing_sets_up_no_logging_and_reads_none_of_our_variables() -> None:
    modules = [module for module in files("deploy") if not heavy_when_imported(module)]
    variables = {"MISTRAL_SERVE_PORT": "1", "RAY_ADDRESS": "none", "RAY_SERVE_ENABLE_HA_PROXY": "0"}
    result = subprocess.run(
        [sys.executable, "-c", PROBE],
        input=json.dumps(modules),
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {}
    assert {"deploy.cli", "deploy.plan", "deploy.model", "deploy.lifecycle", "serve"} <= set(modules)
