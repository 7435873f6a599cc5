"""Prevents a time to first token taken at the wrong event: the role, or the content after reasoning or a tool call."""

import json
from typing import Any

import pytest

from loadtest._answer import Answer
from loadtest._request import RequestSpec
from loadtest._sse import Event

ROLE = {"role": "assistant", "content": ""}
TOOL = {"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": {"name": "weather"}}]}
ARGUMENTS = {"tool_calls": [{"index": 0, "function": {"arguments": '{"city"'}}]}


def answered(*deltas: dict[str, Any]) -> Answer:
    """An answer whose n-th event arrived at second n."""
    answer = Answer(RequestSpec("chat", "m", "s", [], None, 8, {}), keep_text=True)
    for at, delta in enumerate(deltas):
        data = json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        answer.take(Event(b"", data.encode()), float(at))
    return answer


@pytest.mark.parametrize(
    "first",
    [
        {"content": "a"},
        {"reasoning": "hm"},
        {"reasoning_content": "hm"},
        TOOL,
        {"function_call": {"name": "weather"}},
        {"refusal": "no"},
    ],
    ids=lambda delta: next(iter(delta)),
)
def test_the_first_token_is_the_first_delta_that_says_something(first: dict[str, Any]) -> None:
    answer = answered(ROLE, {"content": None}, {"tool_calls": []}, {}, first, {"content": "b"})
    assert (answer.first, answer.last, answer.gaps) == (4.0, 5.0, [(1.0, 1)])


def test_every_delta_of_a_tool_call_counts_and_none_of_them_is_text() -> None:
    answer = answered(ROLE, TOOL, ARGUMENTS, ARGUMENTS)
    assert (answer.first, answer.gaps, answer.output_tokens, answer.text) == (1.0, [(1.0, 1), (1.0, 1)], 3, "")
