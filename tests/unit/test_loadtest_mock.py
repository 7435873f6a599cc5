"""Prevents: a mock that lies about what it sent when, or answers what no server would: all calibration rests on it."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from loadtest._client import Client
from loadtest._mock_process import ROOT, MockServerError, mock_server, read_truth, take_truth
from loadtest._mock_script import Fault, Script, Wording, count_prompt, http_chunk
from loadtest._mock_state import KEPT_TRUTHS, State
from loadtest._mock_stream import Truth
from loadtest._request import Record, RequestSpec


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mock_server("--ttft-s", "0.01", "--itl-s", "0.002", "--model", "m") as url:
        yield url


def call(url: str, body: Any = None, method: str = "GET", headers: dict[str, str] | None = None) -> tuple[int, str]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method="POST" if data else method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def wording_of(chat: bool = True, stream_options: Any = None, max_tokens: Any = 5, **script: Any) -> Wording:
    body = {"max_tokens": max_tokens, "stream_options": stream_options, "prompt": "a b c"}
    return Wording(Script(**script), body, chat=chat, model="m", request_id="r")


def event(data: bytes) -> Any:
    """The JSON of one event that is one HTTP chunk, of the right size."""
    size, _, rest = data.partition(b"\r\n")
    text, end = rest[: int(size, 16)], rest[int(size, 16) :]
    assert end == b"\r\n"
    assert text.startswith(b"data: ")
    assert text.endswith(b"\n\n")
    return json.loads(text.removeprefix(b"data: "))


def test_a_content_chunk_is_what_vllm_sends() -> None:
    chunk = event(wording_of().chunk(4))
    assert chunk.pop("created") > 1_700_000_000
    assert chunk == {
        "id": "r",
        "object": "chat.completion.chunk",
        "model": "m",
        "choices": [{"index": 0, "logprobs": None, "delta": {"content": " über"}, "finish_reason": None}],
    }
    completion = event(wording_of(chat=False).chunk(0))
    assert completion["object"] == "text_completion"
    assert completion["choices"] == [{"index": 0, "logprobs": None, "text": " wind", "finish_reason": None}]


def test_the_role_comes_before_the_content_in_chat_only() -> None:
    assert event(wording_of().role())["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert wording_of(chat=False).role() == b""


def test_reasoning_comes_first_where_it_is_asked_for() -> None:
    wording = wording_of(reasoning_tokens=1)
    assert [list(event(wording.chunk(number))["choices"][0]["delta"]) for number in (0, 1)] == [
        ["reasoning"],
        ["content"],
    ]


def test_usage_comes_when_it_is_asked_for() -> None:
    assert "usage" not in event(wording_of().chunk(0))
    assert "usage" not in event(wording_of(stream_options={"include_usage": True}).chunk(0))
    continuous = wording_of(stream_options={"include_usage": True, "continuous_usage_stats": True}, tokens_per_chunk=2)
    assert [event(continuous.chunk(number))["usage"]["completion_tokens"] for number in range(3)] == [2, 4, 5]
    assert continuous.usage(5) == {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def ended(wording: Wording) -> list[Any]:
    """The events of the end; what is no JSON as text, the end of the HTTP message as None."""
    found: list[Any] = []
    rest = wording.end()
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        text, rest = rest[: int(size, 16)], rest[int(size, 16) + 2 :]
        data = text.removeprefix(b"data: ").strip()
        found.append(None if not text else "[DONE]" if data == b"[DONE]" else json.loads(data))
    return found


def test_an_answer_ends_with_a_reason_its_usage_and_done() -> None:
    reason, usage, done, end = ended(wording_of(stream_options={"include_usage": True}, cached_tokens=2))
    assert reason["choices"] == [{"index": 0, "delta": {}, "finish_reason": "length"}]
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 5)
    assert usage["usage"]["prompt_tokens_details"] == {"cached_tokens": 2}
    assert (done, end) == ("[DONE]", None)


@pytest.mark.parametrize(
    ("fault", "kept"),
    [
        (Fault.NO_USAGE, ["reason", "[DONE]", None]),
        (Fault.NO_DONE, ["reason", "usage", None]),
        (Fault.NO_FINISH, ["usage", None]),
        (Fault.NO_TERMINATOR, ["reason", "usage", "[DONE]"]),
    ],
)
def test_a_fault_of_the_end_leaves_out_one_thing(fault: Fault, kept: list[str | None]) -> None:
    names = [
        one if not isinstance(one, dict) else "usage" if "usage" in one else "reason"
        for one in ended(wording_of(stream_options={"include_usage": True}, fault=fault))
    ]
    assert names == kept


def test_a_fragmented_answer_is_one_http_chunk_for_each_byte() -> None:
    plain = wording_of()
    broken = wording_of(fault=Fault.FRAGMENTS)
    size, _, rest = plain.chunk(0).partition(b"\r\n")
    text = rest[: int(size, 16)].replace(b"\n", b"\r\n")
    assert broken.chunk(0) == b"".join(http_chunk(bytes([byte])) for byte in text)


@pytest.mark.parametrize(("asked", "tokens"), [(5, 5), (None, 16), ("x", 16)])
def test_as_many_tokens_are_sent_as_are_asked_for(asked: Any, tokens: int) -> None:
    assert wording_of(max_tokens=asked).tokens == tokens
    assert wording_of(max_tokens=asked, tokens=7, tokens_per_chunk=3).tokens == 7
    assert wording_of(tokens=7, tokens_per_chunk=3).chunks == 3


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ({"prompt": "a b  c"}, 3),
        ({"prompt": [1, 2]}, 2),
        ({"messages": [{"content": "a b"}, {"content": "c"}, {"content": None}, 5]}, 3),
        ({}, 0),
    ],
)
def test_prompt_tokens_are_words_or_ids(body: dict[str, Any], count: int) -> None:
    assert count_prompt(body) == count


def send(url: str, **mock: Any) -> Record:
    client = Client(url, timeout_s=30)
    record = client.send(RequestSpec("chat", "m", "t", [{"role": "user", "content": "a b"}], None, 5, {"mock": mock}))
    client.close()
    return record


def test_the_truth_is_the_time_of_each_chunk_on_the_clients_own_clock(url: str) -> None:
    record = send(url)
    truth = take_truth(url)[record.request_id]
    assert (len(truth["times"]), truth["complete"], truth["disconnected"], truth["itl_s"]) == (5, True, False, 0.002)
    due = [truth["first_due"] + number * 0.002 for number in range(5)]
    # Never early; late as the machine pleases.
    assert all(sent >= at - 1e-6 for sent, at in zip(truth["times"], due, strict=True))
    assert record.sent <= truth["received"] <= truth["first_due"] - 0.01
    assert record.first is not None
    assert truth["times"][0] <= record.first + 0.001
    assert read_truth(url) == {}


def test_a_client_that_hangs_up_is_noted(url: str) -> None:
    client = Client(url, timeout_s=30)
    record = client.send(RequestSpec("chat", "m", "t", [], None, 5, {"mock": {"itl_s": 60}}, cancel_after_tokens=1))
    client.close()
    while not (truth := read_truth(url)[record.request_id])["disconnected"]:
        pass
    assert truth["complete"] is False
    take_truth(url)


def test_the_routes(url: str) -> None:
    assert json.loads(call(f"{url}/v1/models")[1])["data"] == [{"id": "m", "object": "model", "owned_by": "mock"}]
    assert call(f"{url}/health") == (200, "")
    assert call(f"{url}/nowhere")[0] == 404
    status, text = call(f"{url}/v1/chat/completions", {"mock": {"fault": "unheard of"}})
    assert (status, json.loads(text)["error"]["type"]) == (400, "invalid_request_error")
    assert call(f"{url}/v1/completions", {"max_tokens": 10, "mock": {"fault": "429"}})[0] == 429


def test_an_answer_that_does_not_stream_is_whole(url: str) -> None:
    status, text = call(f"{url}/v1/completions", {"prompt": "a", "max_tokens": 3})
    answer = json.loads(text)
    assert (status, answer["choices"][0]["text"], answer["usage"]["completion_tokens"]) == (200, " wind from the", 3)


def test_the_metrics_are_vllms_and_count_what_was_sent() -> None:
    with mock_server("--ttft-s", "0", "--itl-s", "0") as url:
        send(url)
        text = call(f"{url}/metrics")[1]
    values = dict(re.findall(r'^(vllm:\w+)\{engine="0",model_name="mock"\} (.+)$', text, re.MULTILINE))
    assert values == {
        "vllm:num_requests_running": "0.0",
        "vllm:num_requests_waiting": "0.0",
        "vllm:kv_cache_usage_perc": "0.0",
        "vllm:prompt_tokens_total": "2.0",
        "vllm:generation_tokens_total": "5.0",
        "vllm:request_success_total": "1.0",
        "vllm:num_preemptions_total": "0.0",
    }


def test_only_the_latest_truths_are_kept() -> None:
    state = State(Script(), "m", None)
    for number in range(KEPT_TRUTHS + 2):
        state.remember(str(number), Truth(0.0))
    assert len(state.truths) == KEPT_TRUTHS
    assert next(iter(state.truths)) == "2"


@pytest.mark.parametrize(
    ("flags", "mistake"),
    [
        (["--itl-s", "-1"], "--itl-s -1: Input should be greater than or equal to 0."),
        (["--fault", "fire"], "--fault fire: Input should be 'cut', 'error_event'"),
        (["--host", "198.51.100.1"], "Cannot listen on 198.51.100.1:0 "),
    ],
)
def test_a_wrong_flag_is_one_sentence(flags: list[str], mistake: str) -> None:
    command = [sys.executable, "-m", "loadtest._mock_server", "--port", "0", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert f"error: {mistake}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_mock_that_does_not_start_is_an_error() -> None:
    with pytest.raises(MockServerError, match=r"^the mock server did not start"), mock_server("--itl-s", "-1"):
        pass
