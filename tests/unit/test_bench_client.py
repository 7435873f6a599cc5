"""Prevents figures of requests that were not what they seem: cut streams, missing tokens, errors inside a stream, a
first event without text taken for the first token.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.bench.client import Answer, most_at_once, request_body, send_all, summarise
from tests.bench.errors import BenchError
from tests.bench.metrics import cache_configuration, sample_value

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
TIMEOUT_S = 20.0


def token(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text}]}


def usage(tokens: int) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}


def streaming(*events: dict[str, Any], done: bool = True, gate: asyncio.Event | None = None) -> Handler:
    """Sends the events one chunk each; waits for ``gate`` after the first."""

    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for number, event in enumerate(events):
            if number == 1 and gate is not None:
                await gate.wait()
            await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        if done:
            await response.write(b"data: [DONE]\n\n")
        return response

    return handle


def answers_of(handler: Handler, prompts: Sequence[str] = ("a",), concurrency: int = 1) -> list[Answer]:
    async def run() -> list[Answer]:
        app = web.Application()
        app.router.add_post("/v1/completions", handler)
        async with TestServer(app) as server, asyncio.timeout(TIMEOUT_S):
            return await send_all(str(server.make_url("")).rstrip("/"), "demo", prompts, concurrency, 2)

    return asyncio.run(run())


def test_a_request_asks_for_an_exact_number_of_greedy_tokens_and_their_count() -> None:
    assert request_body("demo", "Hello", 64) == {
        "model": "demo",
        "prompt": "Hello",
        "max_tokens": 64,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_tokens_come_from_the_usage_and_not_from_counting_events() -> None:
    [answer] = answers_of(streaming(token(" two tokens"), usage(2)))
    assert (answer.prompt_tokens, answer.output_tokens) == (5, 2)


def test_the_first_token_is_timed_while_the_stream_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = asyncio.Event()
    readings = iter([1.0, 2.0, 3.0])

    def clock() -> float:
        reading = next(readings)
        if reading == 2.0:  # the server sends on only after the first token has been timed
            gate.set()
        return reading

    monkeypatch.setattr("tests.bench.client.time", SimpleNamespace(perf_counter=clock))
    [answer] = answers_of(streaming(token(" a"), token(" b"), usage(2), gate=gate))
    assert (answer.sent, answer.first, answer.ended) == (1.0, 2.0, 3.0)


def test_an_event_without_text_is_not_the_first_token() -> None:
    with pytest.raises(BenchError, match="instead of 2 completion tokens with text"):
        answers_of(streaming(token(""), usage(2)))


def test_another_number_of_tokens_than_asked_for_fails() -> None:
    with pytest.raises(BenchError, match=r"'completion_tokens': 1}.* instead of 2 completion tokens"):
        answers_of(streaming(token(" a"), usage(1)))


def test_a_stream_without_usage_fails() -> None:
    with pytest.raises(BenchError, match="instead of 2 completion tokens"):
        answers_of(streaming(token(" a"), token(" b")))


def test_a_stream_that_ends_without_done_fails() -> None:
    with pytest.raises(BenchError, match="cut before its end"):
        answers_of(streaming(token(" a"), token(" b"), usage(2), done=False))


def test_an_error_inside_a_stream_fails_with_its_message() -> None:
    with pytest.raises(BenchError, match="engine died"):
        answers_of(streaming(token(" a"), {"error": {"message": "engine died"}}))


def test_a_status_other_than_200_fails_with_the_body() -> None:
    async def refuse(request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": "queue full"}}, status=503)

    with pytest.raises(BenchError, match=r"answered 503: .*queue full"):
        answers_of(refuse)


def test_one_failed_request_of_many_fails_the_load() -> None:
    good, bad = streaming(token(" a"), usage(2)), streaming(token(" a"), usage(1))

    async def every_third_is_bad(request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["prompt"]
        return await (bad if int(prompt) % 3 == 2 else good)(request)

    with pytest.raises(BenchError, match="instead of 2"):
        answers_of(every_third_is_bad, [str(number) for number in range(9)], concurrency=2)


def test_every_prompt_is_sent_once_and_no_more_than_the_concurrency_run_at_a_time() -> None:
    running: list[str] = []
    most: list[int] = []
    seen: list[str] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        prompt = (await request.json())["prompt"]
        seen.append(prompt)
        running.append(prompt)
        most.append(len(running))
        await asyncio.sleep(0.01)
        response = await streaming(token(" a"), usage(2))(request)
        running.remove(prompt)
        return response

    prompts = [str(number) for number in range(12)]
    assert len(answers_of(handle, prompts, concurrency=4)) == 12
    assert sorted(seen) == sorted(prompts)
    assert max(most) == 4


def test_a_server_that_cannot_be_reached_fails_in_one_sentence() -> None:
    with pytest.raises(BenchError, match=r"a request to http://127\.0\.0\.1:9 was broken off"):
        asyncio.run(send_all("http://127.0.0.1:9", "demo", ["a"], 1, 2))


def test_a_load_lasts_from_the_first_request_sent_to_the_last_end() -> None:
    load = summarise(2, [Answer(10.0, 10.5, 12.0, 5, 64), Answer(10.25, 11.0, 14.0, 6, 64)])
    assert load.wall_s == 4.0
    assert (load.prompt_tokens, load.output_tokens, load.tokens_per_s) == (11, 128, 32.0)
    assert (load.ttft_s, load.latency_s) == ([0.5, 0.75], [2.0, 3.75])


def test_answers_count_as_at_once_between_their_first_token_and_their_end() -> None:
    overlapping = [Answer(0, 1, 4, 5, 2), Answer(0, 2, 5, 5, 2), Answer(0, 4, 6, 5, 2)]
    assert most_at_once(overlapping) == 2  # the first ends in the moment in which the third begins


METRICS = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="demo"} 7.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{kv_cache_size_tokens="122964",sliding_window="None"} 1.0
"""


def test_a_metric_is_read_by_its_name() -> None:
    assert sample_value(METRICS, "vllm:num_requests_running") == 7.0


def test_the_cache_configuration_is_read_from_its_labels() -> None:
    assert cache_configuration(METRICS) == {"kv_cache_size_tokens": "122964", "sliding_window": "None"}


def test_a_metric_that_is_not_there_is_named() -> None:
    with pytest.raises(BenchError, match="no vllm:num_preemptions_total"):
        sample_value(METRICS, "vllm:num_preemptions_total")
    with pytest.raises(BenchError, match="no vllm:cache_config_info"):
        cache_configuration("")
