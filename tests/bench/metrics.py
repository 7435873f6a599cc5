"""What a running engine says of itself, in vLLM's own metrics."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.bench.errors import BenchError

POLL_S = 0.25
RUNNING, USAGE, PREEMPTIONS = "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"
CACHE = "vllm:cache_config_info"


@dataclass
class Peak:
    """The highest values that were seen. ``kv_usage`` is a share of the cache, 0 to 1."""

    running: int = 0
    kv_usage: float = 0.0


def sample_value(text: str, name: str) -> float:
    """The value of the one sample called ``name`` in a metrics page.

    Raises:
        BenchError: there is none.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                return float(sample.value)
    raise BenchError(f"the server's metrics hold no {name}")


def cache_configuration(text: str) -> dict[str, str]:
    """The labels of vLLM's information on its KV cache.

    Raises:
        BenchError: the page holds no such information.
    """
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == CACHE:
                return dict(sample.labels)
    raise BenchError(f"the server's metrics hold no {CACHE}")


async def get_text(session: aiohttp.ClientSession, url: str) -> str:
    """The body of a page.

    Raises:
        BenchError: it cannot be read.
    """
    try:
        async with session.get(url) as response:
            text = await response.text()
    except aiohttp.ClientError as error:
        raise BenchError(f"{url} cannot be read: {error!r}") from error
    if response.status != 200:
        raise BenchError(f"{url} answered {response.status}: {text[:300]}")
    return text


async def get_model(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """The entry of the one model that the server at ``url`` lists."""
    async with session.get(f"{url}/v1/models") as response:
        return dict((await response.json())["data"][0])


@contextlib.asynccontextmanager
async def watching(session: aiohttp.ClientSession, url: str) -> AsyncIterator[Peak]:
    """Follow the engine's metrics while the body runs."""
    peak = Peak()
    watcher = asyncio.create_task(_watch(session, url, peak))
    try:
        yield peak
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


async def _watch(session: aiohttp.ClientSession, url: str, peak: Peak) -> None:
    while True:
        text = await get_text(session, f"{url}/metrics")
        peak.running = max(peak.running, int(sample_value(text, RUNNING)))
        peak.kv_usage = max(peak.kv_usage, sample_value(text, USAGE))
        await asyncio.sleep(POLL_S)
