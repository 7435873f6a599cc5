"""How many long sequences fit at once with the model's sliding window, and with full attention in its place."""

import asyncio
import json
import secrets
import tempfile
from pathlib import Path

from tests.bench.client import most_at_once, new_session, send_all, summarise
from tests.bench.metrics import (
    PREEMPTIONS,
    cache_configuration,
    get_model,
    get_text,
    sample_value,
    watching,
)
from tests.bench.progress import say
from tests.bench.prompts import prompts
from tests.bench.results import Window
from tests.bench.setup import make_setup
from tests.bench.systems import product

KV_CACHE_GIB = 0.25
REQUESTS = 12
PROMPT_WORDS = 6000
OUTPUT_TOKENS = 64


def measure_windows() -> list[Window]:
    """The same long prompts on the product with the window, then without it, with the same KV cache.

    Raises:
        BenchError: anything failed to run.
    """
    flags = ("--kv-cache-gib", str(KV_CACHE_GIB))
    demo = make_setup(*flags).model
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        full = copy_without_window(demo, Path(scratch) / "demo-full-attention")
        return [_measure(*flags), _measure(*flags, "--model", str(full))]


def copy_without_window(model: Path, copy: Path) -> Path:
    """A directory with the same weights (linked) whose configuration has no sliding window; returns ``copy``."""
    copy.mkdir()
    for file in model.iterdir():
        if file.name != "config.json":
            (copy / file.name).symlink_to(file)
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (copy / "config.json").write_text(json.dumps(config | {"sliding_window": None}), encoding="utf-8")
    return copy


def _measure(*flags: str) -> Window:
    setup = make_setup(*flags)
    say("sliding window: starting mistral-serve " + " ".join(setup.flags))
    with product(setup) as running:
        say(f"sliding window: {REQUESTS} prompts of {PROMPT_WORDS} words at once")
        found = asyncio.run(_run(running.url))
    say(
        f"sliding window {found.window}: vLLM counts {found.sequences:.1f} sequences of {found.max_model_len} tokens; "
        f"{found.peak_decoding} ran at once"
    )
    return found


async def _run(url: str) -> Window:
    texts = prompts(secrets.token_hex(4), 0, REQUESTS, PROMPT_WORDS)
    async with new_session() as session:
        model = await get_model(session, url)
        cache = cache_configuration(await get_text(session, f"{url}/metrics"))
        async with watching(session, url) as peak:
            answers = await send_all(url, model["id"], texts, REQUESTS, OUTPUT_TOKENS)
        preemptions = sample_value(await get_text(session, f"{url}/metrics"), PREEMPTIONS)
    load = summarise(REQUESTS, answers)
    window = cache["sliding_window"]
    return Window(
        window=None if window == "None" else int(window),
        kv_cache_tokens=int(cache["kv_cache_size_tokens"]),
        max_model_len=model["max_model_len"],
        sequences=float(cache["kv_cache_max_concurrency"]),
        requests=REQUESTS,
        prompt_tokens=load.prompt_tokens,
        output_tokens=load.output_tokens,
        wall_s=load.wall_s,
        peak_running=peak.running,
        peak_decoding=most_at_once(answers),
        peak_kv_usage=peak.kv_usage,
        preemptions=int(preemptions),
    )
