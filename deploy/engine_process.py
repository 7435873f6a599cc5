"""The engine process of a CPU replica: started early, so that it imports vLLM while the replica does, threads bound.

vLLM spawns its engine process only after the replica has imported vLLM, and the new process then imports it all again.
A fork server started first does its import on another core at the same time, and the engine process is a fork of it
(the ``forkserver`` start method of Python's multiprocessing).

OpenMP and the allocator read their environment once, when a process starts, so it is set for the fork server alone: in
the replica's own process it would bind the HTTP server's thread to one core.
"""

import importlib.util
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from pathlib import Path

PRELOAD = "vllm.v1.engine.core"


def libraries() -> list[Path]:
    """What vLLM preloads on a CPU: its allocator, and torch's GNU OpenMP (``vllm/platforms/cpu.py``, 0.29)."""
    found: list[Path] = []
    for package, patterns in {
        "vllm": ["libs/libtcmalloc*.so*"],
        "torch": ["lib/libgomp*.so*", "../torch.libs/libgomp*.so*"],
    }.items():
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            found += [path for pattern in patterns for path in sorted(Path(spec.origin).parent.glob(pattern))[:1]]
    return found


def environment(threads: int, cores: Sequence[int] = ()) -> dict[str, str]:
    """So many OpenMP threads, with vLLM's libraries preloaded.

    ``cores``: bind one thread to each (libgomp manual, GOMP_CPU_AFFINITY); by default none is bound.
    """
    affinity = {"GOMP_CPU_AFFINITY": " ".join(map(str, cores))} if cores else {}
    return affinity | {"OMP_NUM_THREADS": str(threads), "LD_PRELOAD": ":".join(map(str, libraries()))}


@contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def start(threads: int, cores: Sequence[int] = ()) -> None:
    """Start the fork server with the ``environment`` of an engine, which imports vLLM by itself; returns at once."""
    multiprocessing.set_forkserver_preload([PRELOAD])
    with _variables(environment(threads, cores)):
        forkserver.ensure_running()
