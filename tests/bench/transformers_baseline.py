"""transformers ``generate`` as the third system: runs ``tests/bench/generate.py`` and collects what it writes."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.bench.errors import BenchError
from tests.bench.progress import say
from tests.bench.results import Load, Measured, Process
from tests.bench.setup import Setup
from tests.bench.systems import holding_cores
from tests.bench.workload import OUTPUT_TOKENS, Prompts, Workload


def measure_transformers(setup: Setup, workload: Workload, title: str, prompts: Prompts) -> Measured:
    """Some of the same prompts, at batch sizes instead of concurrencies.

    Raises:
        BenchError: the program ended with an error.
    """
    title = f"{title}: transformers"
    texts = {size: prompts.loads[size][: size * count] for size, count in workload.batches.items()}
    task = {"prompts": texts, "warm_up": prompts.warm_up[:1], "output_tokens": OUTPUT_TOKENS}
    start_s = others_share = 0.0
    processes: list[Process] = []
    loads: list[Load] = []
    say(f"{title}: starting")
    with holding_cores(setup):
        started = time.monotonic()
        with _messages(setup, task) as messages:
            for message in messages:
                if "ready" in message:
                    start_s = time.monotonic() - started
                    say(f"{title}: ready after {start_s:.1f} s, warming up")
                processes += [Process.model_validate(process) for process in message.get("processes", [])]
                others_share = message.get("others", others_share)
                if "load" in message:
                    loads.append(Load.model_validate(message["load"]))
                    say(f"{title}: batch {loads[-1].describe()}")
    return Measured(start_s=start_s, processes=processes, others_share=others_share, loads=loads)


def generate_command(setup: Setup) -> list[str]:
    """The program that reads the prompts from stdin."""
    return [sys.executable, "-m", "tests.bench.generate", str(setup.model), setup.arguments["dtype"]]


@contextmanager
def _messages(setup: Setup, task: dict[str, Any]) -> Iterator[Iterator[dict[str, Any]]]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            generate_command(setup), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(task))
            process.stdin.close()
            yield (json.loads(line) for line in process.stdout)
            if process.wait() != 0:
                log.seek(0)
                raise BenchError("transformers' generate failed:\n" + log.read().decode(errors="replace")[-4000:])
        finally:
            process.kill()
            process.wait()
