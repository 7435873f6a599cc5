"""Prevents: a harmful prompt that passes unjudged, a dead endpoint that stalls or opens the server, a leaked key.

A classifier on this machine judges; it finds every text harmful that holds the word BAD.
"""

import asyncio
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from deploy.errors import UsageError
from deploy.gateway.key_file import new_token
from deploy.gateway.moderation import NotJudgedError
from deploy.gateway.moderation_client import LARGEST_ANSWER, Endpoint
from deploy.gateway.moderation_texts import prompt_texts
from deploy.gateway.stack import Gateway
from deploy.settings import GatewaySettings, GuardSettings, LogSettings, Settings
from tests.unit.asgi_calls import Upstream, call, scope_of
from tests.unit.guard_gate import Gate
from tests.unit.key_gate import CHAT, entry, write
from tests.unit.records import key
from tests.unit.stub_classifier import BAD, StubClassifier, classifier

SECRET = "sk-moderation-secret"


@pytest.fixture
def stub() -> Iterator[StubClassifier]:
    with classifier() as found:
        yield found


def gate(stub: StubClassifier, **settings: Any) -> Gate:
    known = {"moderation": "always", "moderation_url": stub.moderations_url, "moderation_stage": "input"}
    return Gate(**{**known, "moderation_timeout_s": 60, **settings})


def chat(*texts: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **fields}


def counted(stage: str, verdict: str) -> float:
    labels = {"stage": stage, "verdict": verdict}
    return REGISTRY.get_sample_value("mistral_serve_moderations_total", labels) or 0


class TestPrompts:
    def test_a_harmless_prompt_passes_and_says_how_long_it_waited(self, stub: StubClassifier) -> None:
        before = counted("input", "allowed")
        response = gate(stub).ask(chat("Hi", "there"))
        assert response.status == 200
        assert response.headers["x-moderation-delay-ms"].isdigit()
        assert "x-moderation" not in response.headers
        assert stub.requests == [{"input": ["Hi", "there"]}]
        assert counted("input", "allowed") == before + 1

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            (CHAT, chat(BAD), "messages"),
            ("/v1/messages", chat(BAD), "messages"),
            ("/v1/completions", {"prompt": ["Hi", BAD]}, "prompt"),
            ("/v1/responses", {"input": BAD}, "input"),
        ],
    )
    def test_a_harmful_prompt_is_400_and_never_reaches_the_model(
        self, stub: StubClassifier, path: str, body: Any, param: str
    ) -> None:
        before, flagged = rejections(), counted("input", "flagged")
        asked = gate(stub)
        response = asked.ask(body, path)
        assert (response.status, response.error["code"], response.error["param"]) == (400, "content_filter", param)
        assert response.error["type"] == "invalid_request_error"
        assert BAD not in response.error["message"]
        assert asked.upstream.scopes == []
        assert (rejections(), counted("input", "flagged")) == (before + 1, flagged + 1)

    @pytest.mark.parametrize(("policy", "header"), [("flag", "input"), ("log", None)])
    def test_the_milder_policies_let_it_pass(
        self, stub: StubClassifier, policy: str, header: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "ray.serve")
        response = gate(stub, moderation_policy=policy).ask(chat(BAD))
        assert (response.status, response.headers.get("x-moderation")) == (200, header)
        request = response.headers["x-request-id"]
        assert caplog.messages == [f"moderation: input of request {request} (key -) is harmful"]

    def test_output_alone_asks_about_no_prompt(self, stub: StubClassifier) -> None:
        chats = gate(stub, moderation_stage="output")
        chats.upstream.headers = {"content-type": "application/json"}
        chats.upstream.chunks = [b'{"choices": []}']
        assert chats.ask(chat(BAD)).status == 200
        assert stub.requests == []

    def test_on_request_only_who_asks_is_moderated(self, stub: StubClassifier) -> None:
        asked = gate(stub, moderation="on_request", safe_prompt="off")
        assert asked.ask(chat(BAD)).status == 200
        assert asked.ask(chat(BAD, safe_prompt=False)).status == 200
        assert asked.ask(chat(BAD, safe_prompt=True)).status == 400
        asked.key = key(guard=True)
        assert asked.ask(chat(BAD, safe_prompt=False)).status == 400

    def test_no_request_switches_forced_moderation_off(self, stub: StubClassifier) -> None:
        assert gate(stub).ask(chat(BAD, safe_prompt=False)).status == 400

    def test_the_operators_own_prompt_is_not_judged(self, stub: StubClassifier) -> None:
        assert gate(stub, safe_prompt="always").ask(chat("Hi")).status == 200
        assert stub.judged == [["Hi"]]

    def test_a_chat_endpoint_is_asked_about_the_whole_prompt_once(self, stub: StubClassifier) -> None:
        asked = gate(stub, moderation_url=stub.chat_url, moderation_model="guard")
        assert asked.ask(chat("Hi", "there")).status == 200
        assert stub.requests == [
            {
                "model": "guard",
                "messages": [{"role": "user", "content": "Hi\n\nthere"}],
                "temperature": 0,
                "max_tokens": 32,
            }
        ]
        assert asked.ask(chat("Hi", BAD)).status == 400

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            ("/v1/completions", {"prompt": [1, 2, 3]}, "prompt"),
            ("/v1/completions", {"prompt": [[1, 2], [3]]}, "prompt"),
            ("/v1/completions", {"prompt": ["Hi", [3]]}, "prompt"),
            ("/v1/completions", {"prompt_embeds": "AAAA"}, "prompt_embeds"),
            ("/v1/responses", {"input": "Hi", "previous_response_id": "resp_1"}, "previous_response_id"),
            ("/v1/responses", {"input": [{"type": "item_reference", "id": "1"}]}, "input"),
            (CHAT, {"messages": [{"role": "user", "content": [{"image_url": {"url": "data:"}}]}]}, "messages"),
            (
                "/v1/messages",
                {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
                "messages",
            ),
        ],
    )
    def test_what_cannot_be_judged_is_refused(self, stub: StubClassifier, path: str, body: Any, param: str) -> None:
        response = gate(stub).ask(body, path)
        assert (response.status, response.error["code"], response.error["param"]) == (400, "not_moderatable", param)
        assert stub.requests == []


def rejections() -> float:
    labels = {"key": "", "reason": "moderation"}
    return REGISTRY.get_sample_value("mistral_serve_rejections_total", labels) or 0


class TestTexts:
    @pytest.mark.parametrize(
        ("path", "body", "texts"),
        [
            (CHAT, {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]}, ["a"]),
            (CHAT, {"messages": [{"role": "a", "name": "b", "content": [{"type": "text", "text": "c"}]}]}, ["a\nb\nc"]),
            (
                CHAT,
                {
                    "messages": [
                        {
                            "role": "assistant",
                            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}],
                        },
                        {"role": "tool", "tool_call_id": "call-1", "content": "found"},
                    ]
                },
                ['f\n{"a": 1}', "call-1\nfound"],
            ),
            (
                CHAT,
                {
                    "messages": [],
                    "tools": [
                        {
                            "type": "function",
                            "function": {"name": "f", "parameters": {"properties": {"source": {"enum": ["x"]}}}},
                        }
                    ],
                    "documents": [{"title": "t", "text": "d"}],
                    "chat_template_kwargs": {"persona": "p"},
                },
                ["f\nsource\nx", "title\nt\nd", "persona\np"],
            ),
            ("/v1/completions", {"prompt": "a", "suffix": "b"}, ["a", "b"]),
            ("/v1/completions", {"prompt": ["a", "", " ", "b"]}, ["a", "b"]),
            ("/v1/responses", {"instructions": "a", "input": [{"role": "user", "content": "b"}]}, ["a", "b"]),
            (
                "/v1/messages",
                {
                    "system": [{"type": "text", "text": "a"}],
                    "messages": [
                        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": "b"}]}
                    ],
                },
                ["a", "1\nb"],
            ),
            (CHAT, {"messages": "not a list"}, ["not a list"]),
            (CHAT, {}, []),
        ],
    )
    def test_every_string_that_a_template_could_see_is_judged(self, path: str, body: Any, texts: list[str]) -> None:
        assert prompt_texts(path, body) == texts

    def test_a_deeply_nested_body_is_read_to_its_bottom(self) -> None:
        deep: Any = BAD
        for _ in range(50_000):
            deep = [deep]
        assert prompt_texts(CHAT, {"messages": [{"content": deep}]}) == [BAD]


class TestFailures:
    @pytest.mark.parametrize(
        "answer",
        [
            b"",
            b"garbage",
            b"[]",
            b"{}",
            b'{"results": []}',
            b'{"results": [{}]}',
            b'{"results": [{"flagged": "no"}]}',
            b'{"results": [{"categories": {}}]}',
            b'{"results": [{"flagged": false}, {"flagged": false}]}',
            b"[" * 100_000,
            b" " * (LARGEST_ANSWER + 1),
        ],
        ids=lambda answer: answer[:40].decode() or "empty",
    )
    def test_an_answer_that_is_no_judgement_refuses_with_503(self, stub: StubClassifier, answer: bytes) -> None:
        stub.answer = answer
        before = counted("input", "failed")
        asked = gate(stub)
        response = asked.ask(chat("Hi"))
        assert (response.status, response.error["code"]) == (503, "moderation_unavailable")
        assert response.headers["retry-after"] == "5"
        assert asked.upstream.scopes == []
        assert counted("input", "failed") == before + 1

    @pytest.mark.parametrize("said", ["maybe", "", "safely", 7, None])
    def test_a_chat_endpoint_must_say_safe_or_unsafe(self, stub: StubClassifier, said: Any) -> None:
        stub.answer = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        assert gate(stub, moderation_url=stub.chat_url).ask(chat("Hi")).status == 503

    @pytest.mark.parametrize("status", [401, 404, 429, 500, 302])
    def test_another_status_than_200_is_no_judgement(self, stub: StubClassifier, status: int) -> None:
        stub.status = status
        assert gate(stub).ask(chat("Hi")).status == 503

    def test_a_slow_endpoint_is_waited_for_no_longer_than_the_timeout(self, stub: StubClassifier) -> None:
        stub.open.clear()
        assert gate(stub, moderation_timeout_s=0.05).ask(chat("Hi")).status == 503

    def test_of_several_judgements_one_that_fails_ends_the_others(self, stub: StubClassifier) -> None:
        hanging: set[str] = set()

        async def answer(request: httpx.Request) -> httpx.Response:
            text = json.loads(request.content)["messages"][0]["content"]
            if text == "fails":
                while len(hanging) < 2:
                    await asyncio.sleep(0)
                return httpx.Response(500)
            hanging.add(text)
            try:
                await asyncio.Event().wait()
            finally:
                hanging.remove(text)
            raise AssertionError

        async def judge_three() -> None:
            judge = Endpoint(GuardSettings(moderation_url=stub.chat_url, moderation_timeout_s=60))
            judge._client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
            with pytest.raises(NotJudgedError, match="status 500"):
                await judge.flagged(["a", "fails", "b"])
            async with asyncio.timeout(10):
                while hanging:
                    await asyncio.sleep(0)

        asyncio.run(judge_three())

    def test_a_dead_endpoint_is_no_judgement(self, stub: StubClassifier) -> None:
        asked = gate(stub)
        stub.close()
        assert asked.ask(chat("Hi")).status == 503

    def test_allow_lets_unjudged_prompts_pass(self, stub: StubClassifier, caplog: pytest.LogCaptureFixture) -> None:
        stub.status = 500
        asked = gate(stub, moderation_on_failure="allow")
        assert [asked.ask(chat(BAD)).status for _ in range(3)] == [200, 200, 200]
        # Once a minute, however often it fails.
        assert caplog.messages == ["the moderation endpoint did not judge: status 500"]

    def test_mistrals_answer_has_categories_only(self, stub: StubClassifier) -> None:
        stub.answer = b'{"results": [{"categories": {"pii": false, "health": false}, "category_scores": {"pii": 0.1}}]}'
        assert gate(stub).ask(chat("Hi")).status == 200
        stub.answer = b'{"results": [{"categories": {"pii": false, "health": true}, "category_scores": {"pii": 0.1}}]}'
        assert gate(stub).ask(chat("Hi")).status == 400

    def test_connections_are_used_again(self, stub: StubClassifier) -> None:
        stub.keeps = True

        async def judge_three() -> list[list[bool]]:
            judge = Endpoint(GuardSettings(moderation_url=stub.moderations_url, moderation_timeout_s=60))
            return [await judge.flagged([text]) for text in ("a", BAD, "b")]

        assert asyncio.run(judge_three()) == [[False], [True], [False]]
        assert stub.connections == 1

    def test_judgements_in_flight_are_bounded(self, stub: StubClassifier, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("deploy.gateway.moderation_client.MOST_CONNECTIONS", 2)
        stub.open.clear()

        async def judge_five() -> list[Any]:
            judge = Endpoint(GuardSettings(moderation_url=stub.moderations_url, moderation_timeout_s=60))
            judging = asyncio.gather(*(judge.flagged([str(i)]) for i in range(5)))
            while stub.at_once < 2:
                await asyncio.sleep(0.01)
            stub.open.set()
            return await judging

        assert len(asyncio.run(judge_five())) == 5
        assert (len(stub.requests), stub.most_at_once) == (5, 2)


class TestKey:
    def test_the_key_is_sent_by_header_and_written_nowhere(
        self, stub: StubClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        file = tmp_path / "key"
        file.write_text(f"{SECRET}\n")
        asked = gate(stub, moderation_key_file=file)
        assert asked.ask(chat("Hi")).status == 200
        assert stub.keys == [f"Bearer {SECRET}"]
        stub.status = 401
        assert asked.ask(chat("Hi")).status == 503
        assert SECRET not in caplog.text
        assert SECRET not in repr(vars(asked.guard))

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(None, "cannot be read (No such file or directory)"), (b"\n", "holds no key"), (b"\xff", "is not ASCII text")],
    )
    def test_a_key_file_that_cannot_be_used_is_one_sentence(
        self, stub: StubClassifier, tmp_path: Path, content: bytes | None, problem: str
    ) -> None:
        file = tmp_path / "key"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(UsageError) as error:
            gate(stub, moderation_key_file=file)
        assert str(error.value).startswith(f"guard.moderation_key_file {file} ")
        assert problem in str(error.value)


def test_the_whole_gateway_guards_what_its_settings_ask_for(stub: StubClassifier, tmp_path: Path) -> None:
    token, guarded = new_token(), new_token()
    file = tmp_path / "keys.yaml"
    write(file, entry(token), entry(guarded, guard=True))
    guard = GuardSettings(moderation="on_request", moderation_url=stub.moderations_url, moderation_stage="input")
    upstream = Upstream()
    settings = Settings(gateway=GatewaySettings(keys_file=file), guard=guard, log=LogSettings(access=False))

    def status(key: str, text: str) -> int:
        # A gateway of its own for each request: its connections belong to one event loop.
        app = Gateway(settings).around(upstream, "demo")
        body = json.dumps(chat(text)).encode()
        return call(app, scope_of(CHAT, {"authorization": f"Bearer {key}"}), [body]).status

    assert [status(token, BAD), status(guarded, BAD)] == [200, 400]
    assert status(guarded, "Hi") == 200
    first, second = (json.loads(message["body"])["messages"] for message in upstream.received)
    assert [message["role"] for message in first + second] == ["user", "system", "user"]
    assert stub.judged == [[BAD], ["Hi"]]


@pytest.mark.parametrize(
    "url",
    ["localhost:9000/v1/moderations", "ftp://h/v1/moderations", "http:///v1/moderations", "http://h/v1", "http://["],
)
def test_a_url_without_a_known_protocol_is_a_mistake(url: str) -> None:
    with pytest.raises(ValueError, match="moderation_url is no endpoint that is known"):
        GuardSettings(moderation="always", moderation_url=url)


def test_a_url_must_not_hold_a_password() -> None:
    with pytest.raises(ValueError, match="give moderation_key_file"):
        GuardSettings(moderation="always", moderation_url="https://me:secret@h/v1/moderations")
