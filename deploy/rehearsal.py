"""What a rehearsal tells: how fast the model with random weights produces tokens here."""

import json
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from deploy.own_http import ask

TOKENS = 16
CONCURRENT = 4
PROMPT = "The rehearsal measures speed, and the words do not matter."


def _tokens(url: str, model: str) -> int:
    body = {"model": model, "prompt": PROMPT, "max_tokens": TOKENS, "ignore_eos": True, "temperature": 0}
    request = urllib.request.Request(  # noqa: S310 (always http)
        f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with ask(request) as response:
        return int(json.load(response)["usage"]["completion_tokens"])


def output_rate(url: str, model: str, concurrent: int) -> float:
    """Output tokens per second over ``concurrent`` requests of 16 tokens each, sent at once; prefill included."""
    started = time.perf_counter()
    with ThreadPoolExecutor(concurrent) as pool:
        produced = sum(pool.map(lambda _: _tokens(url, model), range(concurrent)))
    return produced / (time.perf_counter() - started)


def report(url: str, model: str, say: Callable[[str], None]) -> None:
    """Measure one stream alone and four at once, and say both."""
    _tokens(url, model)
    say(f"rehearsal: {output_rate(url, model, 1):.2f} tokens/s for one request alone")
    say(f"rehearsal: {output_rate(url, model, CONCURRENT):.2f} tokens/s for {CONCURRENT} requests at once")
