"""Prevents: tokens that a key used and nobody counts, or that are counted twice."""

from typing import Any

import httpx
import pytest

from deploy.usage_report import COLUMNS
from tests.live.deployment import eventually
from tests.live.gateway.guarded import Guarded, report

pytestmark = pytest.mark.live
TOKENS = 7
COMPLETION = {"model": "demo", "prompt": "Hi there", "max_tokens": TOKENS, "ignore_eos": True}
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": TOKENS, "ignore_eos": True}
TOTAL = "mistral_serve_tokens_total"


@pytest.fixture(scope="module")
def key(guarded: Guarded) -> str:
    """A key that nothing else uses, known to the replica."""
    key = guarded.new_key("--name", "counted")
    eventually(lambda: guarded.get("/v1/models", key).status_code == 200, 10, "the key opens")
    return key


def totals(guarded: Guarded) -> dict[str, Any]:
    """What the usage report says of that key, the requests for its list of models left out."""
    rows = report(guarded.usage, "--by", "key", "--by", "route")
    found = [row for row in rows if row["key"] == "counted" and row["route"] != "/v1/models"]
    return {name: sum(row[name] for row in found) for name in COLUMNS}


def difference(guarded: Guarded, before: dict[str, Any], requests: int) -> dict[str, Any]:
    """What was added once so many requests have ended."""

    def ended() -> bool:
        now = totals(guarded)
        return bool(now["requests"] - before["requests"] == requests and now["unfinished"] == 0)

    eventually(ended, 10, f"{requests} requests are in the usage log")
    now = totals(guarded)
    return {name: now[name] - before[name] for name in now if now[name] != before[name]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "body", "prompts", "completions"),
    [
        ("/v1/completions", COMPLETION, 1, 1),
        ("/v1/completions", COMPLETION | {"n": 3}, 1, 3),
        ("/v1/completions", COMPLETION | {"prompt": ["Hi there", "Hi there"]}, 2, 2),
        ("/v1/chat/completions", CHAT, 5, 1),
    ],
)
def test_tokens_are_counted_though_a_stream_asked_for_no_usage(
    guarded: Guarded, key: str, path: str, body: dict[str, Any], prompts: int, completions: int, stream: bool
) -> None:
    before = totals(guarded)
    answer = guarded.post(path, body | {"stream": stream}, key)
    assert answer.status_code == 200
    assert stream is ('"usage"' not in answer.text)
    added = difference(guarded, before, 1)
    # Two tokens in the prompt; the chat's template makes ten of its one.
    assert added == {"requests": 1, "prompt_tokens": 2 * prompts, "completion_tokens": TOKENS * completions}


def test_a_client_that_hung_up_pays_for_what_was_made(guarded: Guarded, key: str) -> None:
    before = totals(guarded)
    url, headers = f"{guarded.server.url}/v1/completions", {"authorization": f"Bearer {key}"}
    body = COMPLETION | {"max_tokens": 3000, "stream": True}
    with httpx.stream("POST", url, json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        seen = 0
        while seen < TOKENS:
            seen += next(lines).startswith("data: ")
    added = difference(guarded, before, 1)
    assert (added["requests"], added["hang_ups"], added["prompt_tokens"]) == (1, 1, 2)
    # What was in flight when the client went away was made too.
    assert TOKENS <= added["completion_tokens"] < 3000


def test_errors_and_rejections_are_told_apart(guarded: Guarded, key: str) -> None:
    before = totals(guarded)
    for body, status in (({"model": "gpt-4", "prompt": "Hi"}, 404), ({"model": "demo", "prompt": 7}, 400)):
        assert guarded.post("/v1/completions", body, key).status_code == status
    assert guarded.get("/version", key).status_code == 403
    # A closed route does not ask for the key, so that nobody can say whose request it was.
    assert difference(guarded, before, 2) == {"requests": 2, "errors": 2}


def test_the_metrics_say_what_the_usage_log_says(guarded: Guarded, key: str) -> None:
    now = totals(guarded)
    assert guarded.metric(TOTAL, key="counted", kind="prompt") == now["prompt_tokens"]
    assert guarded.metric(TOTAL, key="counted", kind="completion") == now["completion_tokens"]
    assert guarded.metric("mistral_serve_hang_ups_total", key="counted") == now["hang_ups"]
