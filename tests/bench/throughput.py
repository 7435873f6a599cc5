"""Output tokens per second, time to first token, start and idle memory of the three systems, one after another."""

import asyncio
import time
from contextlib import AbstractContextManager
from typing import Any

from tests.bench.client import new_session, send_all, summarise
from tests.bench.errors import BenchError
from tests.bench.metrics import cache_configuration, get_model, get_text
from tests.bench.processes import Family
from tests.bench.progress import say
from tests.bench.results import Measured, Repeat
from tests.bench.setup import Setup
from tests.bench.systems import Running, bare_vllm, product
from tests.bench.transformers_baseline import measure_transformers
from tests.bench.workload import OUTPUT_TOKENS, WARM_UP, Prompts, Workload, new_prompts

SETTLE_S = 3.0
"""After the warm-up, so that idle memory is measured while nothing runs."""


def measure_repeats(setup: Setup, workload: Workload, repeats: int) -> list[Repeat]:
    """Measure product, bare vLLM, transformers; then again, ``repeats`` times.

    Raises:
        BenchError: anything failed to run, or the two servers do not run the same engine.
    """
    return [_repeat(setup, workload, f"repeat {number} of {repeats}") for number in range(1, repeats + 1)]


def _repeat(setup: Setup, workload: Workload, title: str) -> Repeat:
    prompts = new_prompts(workload)
    ours, our_engine = _measure_server(product(setup), f"{title}: mistral-serve", prompts)
    theirs, their_engine = _measure_server(bare_vllm(setup), f"{title}: bare vLLM", prompts)
    if our_engine != their_engine:
        different = {key for key in our_engine.keys() | their_engine if our_engine.get(key) != their_engine.get(key)}
        raise BenchError(f"the two servers do not run the same engine: {sorted(different)} differ")
    return Repeat(product=ours, vllm=theirs, transformers=measure_transformers(setup, workload, title, prompts))


def _measure_server(
    server: AbstractContextManager[Running], title: str, prompts: Prompts
) -> tuple[Measured, dict[str, Any]]:
    """The figures of one server, and what tells whether another one runs the same engine."""
    say(f"{title}: starting")
    with server as running:
        say(f"{title}: ready after {running.start_s:.1f} s, warming up")
        engine = asyncio.run(_engine(running.url))
        model = engine["model"]
        asyncio.run(send_all(running.url, model, prompts.warm_up, WARM_UP, OUTPUT_TOKENS))
        time.sleep(SETTLE_S)
        family = Family(running.family())
        loads = []
        for concurrency, texts in prompts.loads.items():
            answers = asyncio.run(send_all(running.url, model, texts, concurrency, OUTPUT_TOKENS))
            loads.append(summarise(concurrency, answers))
            say(f"{title}: concurrency {loads[-1].describe()}")
        processes = family.after_load()
        share = family.others_share(processes)
    return Measured(start_s=running.start_s, processes=processes, others_share=share, loads=loads), engine


async def _engine(url: str) -> dict[str, Any]:
    async with new_session() as session:
        model = await get_model(session, url)
        cache = cache_configuration(await get_text(session, f"{url}/metrics"))
    return {"model": model["id"], "max_model_len": model["max_model_len"], **cache}
