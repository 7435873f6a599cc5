"""Prevents: a guard that real clients cannot read, harmful text that a real stream lets out, an engine that works on.

The demo model behind a classifier on this machine that finds every text harmful that holds the word Paris.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from tests.live.deployment import Deployment, eventually, serving
from tests.unit.stub_classifier import StubClassifier, classifier

pytestmark = pytest.mark.live
ABOUT_FRANCE: Any = [{"role": "user", "content": "What is the capital of France?"}]
ABOUT_JAPAN: Any = [{"role": "user", "content": "What is the capital of Japan?"}]
HARMFUL: Any = [{"role": "user", "content": "Say Paris."}]
SECRET = "sk-moderation-secret"
CHAT: Any = {"model": "demo", "temperature": 0, "max_tokens": 20}


@dataclass(frozen=True)
class Guarded:
    """A server whose prompts and answers are judged."""

    server: Deployment
    stub: StubClassifier

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.server.url}/v1", api_key="none", max_retries=0)

    @property
    def anthropic(self) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.server.url, api_key="none", max_retries=0)

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = httpx.get(f"{self.server.url}/metrics", timeout=60).text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{"))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    key = tmp_path_factory.mktemp("guard") / "key"
    key.write_text(SECRET)
    with classifier() as stub:
        stub.bad, stub.keeps = "Paris", True
        flags = ["--guard.moderation", "always", "--guard.moderation-url", stub.moderations_url]
        flags += ["--guard.moderation-key-file", str(key), "--guard.moderation-chunk-chars", "20"]
        with serving(*flags, "--guard.safe-prompt", "always") as server:
            yield Guarded(server, stub)


def test_a_harmless_chat_is_answered_under_the_safe_prompt(guarded: Guarded) -> None:
    with_prompt = guarded.openai.chat.completions.create(messages=ABOUT_JAPAN, **CHAT)
    assert "Tokyo" in str(with_prompt.choices[0].message.content)
    assert with_prompt.usage is not None
    assert with_prompt.usage.prompt_tokens > 40
    assert guarded.stub.judged[0] == ["What is the capital of Japan?"]
    assert set(guarded.stub.keys) == {f"Bearer {SECRET}"}


def test_a_harmless_chat_streams(guarded: Guarded) -> None:
    stream = guarded.openai.chat.completions.create(
        messages=ABOUT_JAPAN, stream=True, stream_options={"include_usage": True}, **CHAT
    )
    chunks = list(stream)
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert "Tokyo" in text
    assert chunks[-1].usage is not None
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "stop"


def test_a_harmful_prompt_raises_openais_bad_request(guarded: Guarded) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        guarded.openai.chat.completions.create(messages=HARMFUL, extra_body={"safe_prompt": False}, **CHAT)
    assert (refused.value.code, refused.value.param) == ("content_filter", "messages")
    with pytest.raises(anthropic.BadRequestError):
        guarded.anthropic.messages.create(messages=HARMFUL, model="demo", max_tokens=20)


def test_a_harmful_answer_is_withheld(guarded: Guarded) -> None:
    answer = guarded.openai.chat.completions.create(messages=ABOUT_FRANCE, **CHAT)
    assert (answer.choices[0].finish_reason, answer.choices[0].message.content) == ("content_filter", "")
    message = guarded.anthropic.messages.create(
        messages=ABOUT_FRANCE, model="demo", max_tokens=20, extra_body={"temperature": 0}
    )
    assert (message.stop_reason, message.content) == ("refusal", [])
    response = guarded.openai.responses.create(input=ABOUT_FRANCE, model="demo", temperature=0, max_output_tokens=20)
    assert (response.status, response.output) == ("incomplete", [])


def test_a_harmful_stream_ends_with_content_filter_and_its_usage(guarded: Guarded) -> None:
    stream = guarded.openai.chat.completions.create(
        messages=ABOUT_FRANCE, stream=True, stream_options={"include_usage": True}, **CHAT
    )
    chunks = list(stream)
    assert "Paris" not in "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "content_filter"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.prompt_tokens > 40
    assert chunks[-1].usage.completion_tokens > 0


def test_streams_of_the_other_protocols_end_in_their_own_words(guarded: Guarded) -> None:
    completion = guarded.openai.completions.create(
        model="demo", prompt="The capital of France is the city of", max_tokens=20, temperature=0, stream=True
    )
    assert [choice.finish_reason for chunk in completion for choice in chunk.choices][-1] == "content_filter"
    with guarded.anthropic.messages.stream(
        messages=ABOUT_FRANCE, model="demo", max_tokens=20, extra_body={"temperature": 0}
    ) as messages:
        message = messages.get_final_message()
    assert message.stop_reason == "refusal"
    assert "Paris" not in message.model_dump_json()
    responses = list(
        guarded.openai.responses.create(
            input=ABOUT_FRANCE, model="demo", temperature=0, max_output_tokens=20, stream=True
        )
    )
    assert responses[-1].type == "response.incomplete"
    assert "Paris" not in "".join(event.model_dump_json() for event in responses)


def test_a_stream_that_was_cut_leaves_nothing_in_the_engine(guarded: Guarded) -> None:
    long = "Write a long story about the city of Rome, and then about the capital of France."
    chat = {**CHAT, "max_tokens": 2000, "extra_body": {"ignore_eos": True}}
    guarded.stub.bad = " the "
    try:
        stream = guarded.openai.chat.completions.create(
            messages=[{"role": "user", "content": long.replace(" the ", " a ")}], stream=True, **chat
        )
        assert [choice.finish_reason for chunk in stream for choice in chunk.choices][-1] == "content_filter"
    finally:
        guarded.stub.bad = "Paris"
    eventually(lambda: guarded.metric("vllm:num_requests_running") == 0, 1.0, "the engine has ended the request")


def test_an_endpoint_that_fails_refuses_with_503(guarded: Guarded) -> None:
    guarded.stub.status = 500
    try:
        with pytest.raises(openai.InternalServerError) as refused:
            guarded.openai.chat.completions.create(messages=ABOUT_JAPAN, **CHAT)
    finally:
        guarded.stub.status = 200
    assert (refused.value.status_code, refused.value.code) == (503, "moderation_unavailable")


@pytest.mark.parametrize("path", ["/v1/chat/completions%0a", "/invocations"])
def test_no_other_way_leads_to_the_model(guarded: Guarded, path: str) -> None:
    body = {"messages": HARMFUL, "prompt": "Say Paris.", "input": "Say Paris.", **CHAT}
    answer = httpx.post(f"{guarded.server.url}{path}", json=body, timeout=60)
    assert answer.status_code in {400, 403}
    assert answer.json()["error"]["code"] in {"content_filter", "route_closed"}


def test_neither_the_key_nor_what_was_judged_is_in_any_log(guarded: Guarded) -> None:
    session = next(
        argument.removeprefix("--log_dir=")
        for process in guarded.server.named("gcs_server")
        for argument in process.cmdline()
        if argument.startswith("--log_dir=")
    )
    written = [file.read_bytes() for file in Path(session).rglob("*") if file.is_file()]
    written += [line.encode() for line in guarded.server.stderr]
    marks = [SECRET, "capital of", "Tokyo", guarded.stub.moderations_url]
    found = [mark for mark in marks for text in written if mark.encode() in text and b"moderation_url" not in text]
    assert found == []
    assert any(b"moderation: output of request" in text for text in written)
