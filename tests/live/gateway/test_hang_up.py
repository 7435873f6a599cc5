"""Prevents: a client that went away, or took too long, and whose request still holds the engine."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.live.gateway.conftest import LONGEST_S
from tests.live.gateway.guarded import Guarded

pytestmark = pytest.mark.live
WITHIN_S = 1.0
LONG = 3000
STORY: Any = [{"role": "user", "content": "Write a very long story about the sea, with many chapters."}]
BODIES: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "Hi", "max_tokens": LONG, "ignore_eos": True},
    "/v1/chat/completions": {"messages": STORY, "max_tokens": LONG, "ignore_eos": True},
    "/v1/responses": {"input": STORY, "max_output_tokens": LONG},
    "/v1/messages": {"messages": STORY, "max_tokens": LONG},
}
RUNNING, KV_CACHE = "vllm:num_requests_running", "vllm:kv_cache_usage_perc"


def wait_for(guarded: Guarded, running: int, within_s: float) -> None:
    """Until the engine runs so many requests, and holds KV cache for them or for none."""
    deadline = time.monotonic() + within_s
    while True:
        asked = time.monotonic()
        found = guarded.metric(RUNNING), guarded.metric(KV_CACHE)
        if found[0] == running and bool(found[1]) == bool(running):
            return
        assert asked < deadline, f"after {within_s} s the engine runs {found[0]:g} with {found[1]:.2%} of the KV cache"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", BODIES)
def test_a_client_that_hangs_up_frees_the_engine_within_a_second(guarded: Guarded, path: str, stream: bool) -> None:
    before = guarded.metric("mistral_serve_hang_ups_total", key="team")
    connection = guarded.send(path, {"model": "demo", "stream": stream, **BODIES[path]})
    wait_for(guarded, 1, within_s=LONGEST_S)
    connection.close()
    wait_for(guarded, 0, WITHIN_S)
    assert guarded.metric("mistral_serve_admitted_kv_bytes") == 0
    assert guarded.metric("mistral_serve_hang_ups_total", key="team") - before == 1


def test_a_request_that_takes_too_long_is_ended_with_an_error(guarded: Guarded) -> None:
    path = "/v1/chat/completions"
    bodies = [{"model": "demo", "stream": stream, **BODIES[path]} for stream in (False, True)]
    with ThreadPoolExecutor() as pool:
        whole, stream = pool.map(lambda body: guarded.post(path, body), bodies)
    error = {"message": f"The request took longer than the {LONGEST_S} s that one may take.", "type": "server_error"}
    expected = {"error": {**error, "param": None, "code": "timeout"}}
    assert (whole.status_code, whole.json()) == (504, expected)
    *_, last, done, nothing = stream.text.split("\n\n")
    assert (stream.status_code, json.loads(last.removeprefix("data: "))) == (200, expected)
    assert (done, nothing) == ("data: [DONE]", "")
    wait_for(guarded, 0, WITHIN_S)
