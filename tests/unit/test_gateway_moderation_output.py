"""Prevents: harmful text that reaches a client, a stream that breaks its protocol, an engine that works for nobody.

The app behind the guard sends what vLLM sends; a classifier on this machine finds text with the word BAD harmful.
"""

import asyncio
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response as OpenAIResponse

from deploy.gateway.asgi import Message, Receive, Scope, Send
from deploy.gateway.request import current
from tests.unit.asgi_calls import Response, Upstream, scope_of
from tests.unit.guard_gate import Gate
from tests.unit.key_gate import CHAT
from tests.unit.stub_classifier import BAD, StubClassifier, classifier

STREAM = "text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"
USER = {"messages": [{"role": "user", "content": "Hi"}]}
WITHHELD = "content_filter"
TOKENS = [{"token": token, "logprob": 0} for token in ("Hi", BAD)]
PIECE = 20
"""Characters of a piece: the least that the settings allow."""


@pytest.fixture
def stub() -> Iterator[StubClassifier]:
    with classifier() as found:
        yield found


class Model(Upstream):
    """Sends its chunks and then, if it ``waits``, waits for its client to go away, or for ever when it is ``deaf``.

    Notes the tokens that the engine counted.
    """

    waits = deaf = ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if (record := current()) is not None:
            record.prompt_tokens, record.completion_tokens = 7, 5
        try:
            await super().__call__(scope, receive, send)
            if self.deaf:
                await asyncio.Event().wait()
            if self.waits:
                assert (await receive())["type"] == "http.disconnect"
        finally:
            self.ended = True


def model(*chunks: bytes, kind: str = STREAM, **settings: Any) -> Model:
    return Model(chunks=chunks, headers={"content-type": kind}, **settings)


def gate(stub: StubClassifier, app: Model, **settings: Any) -> Gate:
    known = {"moderation": "always", "moderation_url": stub.moderations_url, "moderation_stage": "output"}
    return Gate(app=app, **{**known, "moderation_timeout_s": 60, "moderation_chunk_chars": PIECE, **settings})


def event(data: dict[str, Any], name: str = "") -> bytes:
    return (f"event: {name}\n" if name else "").encode() + f"data: {json.dumps(data)}\n\n".encode()


def chunk(*deltas: Any, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    """A chunk of a chat as vLLM writes it."""
    choices = [
        {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, "token_ids": None}
        for delta in deltas
    ]
    envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
    return event({**envelope, "choices": choices, **more})


def says(text: str, **more: Any) -> bytes:
    return chunk({"content": text}, **more)


ROLE = chunk({"role": "assistant", "content": ""})
END = chunk({"content": ""}, finish="stop")
USAGE = chunk(usage={"prompt_tokens": 7, "total_tokens": 12, "completion_tokens": 5})


def events(response: Response) -> list[dict[str, Any]]:
    lines = [line[6:] for line in response.body.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def is_whole(response: Response) -> bool:
    """Whether the answer ended, once."""
    ends = [not message.get("more_body", False) for message in response.messages[1:]]
    return ends == [False] * (len(ends) - 1) + [True]


class TestWholeAnswers:
    def test_a_harmless_answer_passes_byte_for_byte(self, stub: StubClassifier) -> None:
        sent = b'{"choices": [ {"index":0,"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"} ]}'
        app = model(sent[:30], sent[30:], kind="application/json")
        response = gate(stub, app).ask(USER)
        assert response.body == sent
        assert response.headers["content-length"] == str(len(sent))
        assert response.headers["x-moderation-delay-ms"].isdigit()
        assert stub.judged == [["Hi"]]

    def test_of_several_choices_the_harmful_ones_are_withheld(self, stub: StubClassifier) -> None:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": text, "reasoning": "because", "tool_calls": []},
                "logprobs": {"content": [{"token": text, "logprob": 0, "top_logprobs": []}]},
                "finish_reason": "stop",
                "token_ids": [1],
            }
            for index, text in enumerate(["Hi", BAD])
        ]
        answer = {"id": "1", "object": "chat.completion", "created": 1, "model": "demo", "choices": choices}
        response = gate(stub, model(json.dumps(answer).encode(), kind="application/json")).ask(USER)
        assert json.loads(response.body)["choices"] == [
            choices[0],
            {
                "index": 1,
                "message": {"role": "assistant", "content": ""},
                "logprobs": None,
                "finish_reason": "content_filter",
            },
        ]
        assert response.headers["content-length"] == str(len(response.body))
        assert response.headers["x-moderation"] == "output"
        assert stub.judged == [["Hi\nbecause", f"{BAD}\nbecause"]]
        assert ChatCompletion.model_validate_json(response.body).choices[1].finish_reason == "content_filter"

    @pytest.mark.parametrize(
        ("path", "answer"),
        [
            (CHAT, {"choices": [{"index": 0, "message": {"content": "Hi"}, "logprobs": {"content": TOKENS}}]}),
            ("/v1/completions", {"choices": [{"index": 0, "text": "Hi", "logprobs": {"tokens": ["Hi", BAD]}}]}),
            ("/v1/responses", {"output": [{"content": [{"text": "Hi", "logprobs": TOKENS}]}]}),
        ],
    )
    def test_a_stop_string_that_only_the_log_probabilities_have_is_judged(
        self, stub: StubClassifier, path: str, answer: dict[str, Any]
    ) -> None:
        response = gate(stub, model(json.dumps(answer).encode(), kind="application/json")).ask(
            {**USER, "input": "Hi", "prompt": "Hi"}, path
        )
        assert (response.status, BAD.encode() in response.body) == (200, False)
        assert stub.judged == [[f"Hi\nHi{BAD}"]]

    def test_tool_calls_are_judged_and_withheld(self, stub: StubClassifier) -> None:
        call = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": json.dumps({"a": BAD})}}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}
        response = gate(stub, model(json.dumps(answer).encode(), kind="application/json")).ask(USER)
        assert json.loads(response.body)["choices"][0]["message"] == {"role": "assistant", "content": ""}
        assert stub.judged == [[f'f\n{{"a": "{BAD}"}}']]

    @pytest.mark.parametrize(
        ("path", "answer", "withheld"),
        [
            (
                "/v1/completions",
                {"id": "1", "choices": [{"index": 0, "text": BAD, "prompt_logprobs": [1], "finish_reason": "length"}]},
                {
                    "id": "1",
                    "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "content_filter"}],
                },
            ),
            (
                "/v1/messages",
                {"id": "1", "content": [{"type": "text", "text": BAD}], "stop_reason": "end_turn", "usage": {}},
                {"id": "1", "content": [], "stop_reason": "refusal", "usage": {}, "stop_sequence": None},
            ),
            (
                "/v1/messages",
                {"content": [{"type": "tool_use", "id": "2", "name": "f", "input": {"type": BAD}}]},
                {"content": [], "stop_reason": "refusal", "stop_sequence": None},
            ),
            (
                "/v1/responses",
                {
                    "id": "1",
                    "status": "completed",
                    "output": [{"id": "2", "type": "message", "content": [{"type": "output_text", "text": BAD}]}],
                    "output_messages": [BAD],
                },
                {
                    "id": "1",
                    "status": "incomplete",
                    "output": [],
                    "incomplete_details": {"reason": "content_filter"},
                },
            ),
        ],
    )
    def test_each_protocol_says_withheld_in_its_own_words(
        self, stub: StubClassifier, path: str, answer: Any, withheld: Any
    ) -> None:
        app = model(json.dumps(answer).encode(), kind="application/json")
        response = gate(stub, app).ask({"prompt": "Hi", "input": "Hi", **USER}, path)
        assert (response.status, json.loads(response.body)) == (200, withheld)
        assert [BAD in text for (text,) in stub.judged] == [True]

    @pytest.mark.parametrize(("policy", "header"), [("flag", "output"), ("log", None)])
    def test_the_milder_policies_let_it_pass(self, stub: StubClassifier, policy: str, header: str | None) -> None:
        sent = json.dumps({"choices": [{"index": 0, "message": {"content": BAD}}]}).encode()
        response = gate(stub, model(sent, kind="application/json"), moderation_policy=policy).ask(USER)
        assert (response.body, response.headers.get("x-moderation")) == (sent, header)

    def test_an_answer_that_nobody_judges_is_503(self, stub: StubClassifier) -> None:
        stub.status = 500
        sent = json.dumps({"choices": [{"index": 0, "message": {"content": "Hi"}}]}).encode()
        response = gate(stub, model(sent, kind="application/json")).ask(USER)
        assert (response.status, response.error["code"]) == (503, "moderation_unavailable")
        response = gate(stub, model(sent, kind="application/json"), moderation_on_failure="allow").ask(USER)
        assert (response.status, response.body) == (200, sent)

    def test_errors_of_the_app_pass_unjudged(self, stub: StubClassifier) -> None:
        app = Model(status=400, chunks=[b'{"error": {"message": "BAD"}}'], headers={"content-type": "application/json"})
        response = gate(stub, app).ask(USER)
        assert (response.status, response.body) == (400, b'{"error": {"message": "BAD"}}')
        assert stub.requests == []

    def test_a_response_is_neither_kept_nor_made_in_the_background(self, stub: StubClassifier) -> None:
        app = model(b'{"output": []}', kind="application/json")
        assert gate(stub, app).ask({"input": "Hi", "store": True}, "/v1/responses").status == 200
        assert json.loads(app.body) == {"input": "Hi", "store": False}
        refused = gate(stub, app).ask({"input": "Hi", "background": True}, "/v1/responses")
        assert (refused.status, refused.error["param"]) == (400, "background")

    @pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
    def test_the_ids_of_tokens_are_asked_for_only_where_nobody_judges_the_answer(
        self, stub: StubClassifier, path: str
    ) -> None:
        app = model(b'{"choices": []}', kind="application/json")
        asked = {**USER, "prompt": "Hi", "return_token_ids": True, "return_tokens_as_token_ids": True}
        assert gate(stub, app).ask(asked, path).status == 200
        assert json.loads(app.body) == {**USER, "prompt": "Hi"}
        app = model(b'{"choices": []}', kind="application/json")
        assert gate(stub, app, moderation_stage="input").ask(asked, path).status == 200
        assert json.loads(app.body) == asked


class TestChatStreams:
    def test_a_harmless_stream_passes_byte_for_byte_in_judged_pieces(self, stub: StubClassifier) -> None:
        texts = ["The capital ", "of France ", "is Paris, ", "which lies ", "on the Seine."]
        sent = [ROLE, *map(says, texts), END, USAGE, DONE]
        response = gate(stub, model(*sent)).ask(USER)
        assert response.body == b"".join(sent)
        assert is_whole(response)
        first, second = "The capital of France ", "is Paris, which lies "
        assert stub.judged == [[first], [first[-PIECE:] + second], [second[-PIECE:] + "on the Seine."]]
        # Nothing of a piece is sent before it was judged.
        assert [message["body"] for message in response.messages[1:]] == [
            b"".join(sent[:3]),
            b"".join(sent[3:5]),
            b"".join(sent[5:]),
        ]

    def test_events_may_be_cut_anywhere(self, stub: StubClassifier) -> None:
        content = b"".join([ROLE, says("Paris lies on the Seine"), END, DONE])
        response = gate(stub, model(*(content[i : i + 7] for i in range(0, len(content), 7)))).ask(USER)
        assert response.body == content
        assert stub.judged == [["Paris lies on the Seine"]]

    def test_a_harmful_piece_ends_the_stream_and_the_engines_work(self, stub: StubClassifier) -> None:
        app = model(ROLE, says("x" * PIECE), says("BA"), says("D" + "x" * PIECE), says("never sent"))
        app.waits = True
        response = gate(stub, app).ask({**USER, "stream": True, "stream_options": {"include_usage": True}})
        envelope = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "demo"}
        withheld = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "content_filter"}
        usage = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}
        assert response.body == b"".join(
            [
                ROLE,
                says("x" * PIECE),
                event({**envelope, "choices": [withheld]}),
                event({**envelope, "choices": [], "usage": usage}),
                DONE,
            ]
        )
        assert is_whole(response)
        assert app.ended
        for data in events(response):
            ChatCompletionChunk.model_validate(data)

    def test_an_app_that_does_not_listen_is_cancelled(
        self, stub: StubClassifier, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("deploy.gateway.moderation_output.GRACE_S", 0.01)
        app = model(says(BAD + "x" * PIECE))
        app.deaf = True
        assert gate(stub, app).ask(USER).body.endswith(DONE)
        assert app.ended

    def test_an_app_that_listens_for_its_client_is_told(self, stub: StubClassifier) -> None:
        class Listening(Model):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                await receive()
                listening = asyncio.ensure_future(receive())
                await asyncio.sleep(0)
                await send(
                    {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]}
                )
                await send({"type": "http.response.body", "body": says(BAD + "x" * PIECE), "more_body": True})
                self.ended = (await listening)["type"] == "http.disconnect"

        app = Listening()
        asyncio.run(call_without_end(gate(stub, app)))
        assert app.ended

    def test_a_slow_client_gets_the_end_too(self, stub: StubClassifier) -> None:
        got: list[Any] = []

        async def slowly(message: Any) -> None:
            for _ in range(10):
                await asyncio.sleep(0)
            got.append(message)

        class Starlette(Model):
            """Stops sending as soon as its client is gone."""

            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                request = await receive()

                async def given() -> Message:
                    return request

                sending = asyncio.ensure_future(super().__call__(scope, given, send))
                assert (await receive())["type"] == "http.disconnect"
                sending.cancel()

        app = Starlette(chunks=[says(BAD + "x" * PIECE)], headers={"content-type": STREAM})
        asyncio.run(call_without_end(gate(stub, app), slowly))
        assert [message.get("more_body") for message in got] == [None, False]
        assert got[1]["body"].endswith(DONE)

    def test_an_app_that_fails_when_it_is_cut_harms_nothing(self, stub: StubClassifier) -> None:
        class Failing(Model):
            async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
                await super().__call__(scope, receive, send)
                raise OSError("the client is gone")

        app = Failing(chunks=[says(BAD + "x" * PIECE)], headers={"content-type": STREAM})
        assert gate(stub, app).ask(USER).body.endswith(DONE)
        with pytest.raises(OSError, match="the client is gone"):
            gate(stub, Failing(chunks=[says("x" * PIECE)], headers={"content-type": STREAM})).ask(USER)

    def test_a_word_cannot_hide_across_a_boundary(self, stub: StubClassifier) -> None:
        app = model(ROLE, says("x" * (PIECE - 1) + "B"), says("AD"), END, DONE)
        response = gate(stub, app).ask(USER)
        assert [choice["finish_reason"] for data in events(response) for choice in data["choices"]] == [
            None,
            None,
            "content_filter",
        ]

    def test_without_usage_asked_for_none_is_sent(self, stub: StubClassifier) -> None:
        response = gate(stub, model(ROLE, says(BAD), END, DONE)).ask(USER)
        assert [data.get("usage") for data in events(response)] == [None, None]
        assert response.body.endswith(DONE)

    def test_a_harmful_start_is_told_by_the_header(self, stub: StubClassifier) -> None:
        response = gate(stub, model(ROLE, says(BAD), END, DONE)).ask(USER)
        assert (response.status, response.headers["x-moderation"]) == (200, "output")
        assert BAD.encode() not in response.body

    def test_choices_that_are_complete_are_finished_once(self, stub: StubClassifier) -> None:
        app = model(
            chunk({"role": "assistant", "content": ""}, index=0),
            chunk({"role": "assistant", "content": ""}, index=1),
            says("first", index=0, finish="stop"),
            says("x" * PIECE, index=1),
            says(BAD, index=1),
            DONE,
        )
        response = gate(stub, app).ask(USER)
        finishes = [
            (choice["index"], choice["finish_reason"])
            for data in events(response)
            for choice in data["choices"]
            if choice["finish_reason"]
        ]
        assert finishes == [(0, "stop"), (1, "content_filter")]
        assert stub.judged[0] == ["first", "x" * PIECE]

    def test_tool_calls_and_reasoning_are_text(self, stub: StubClassifier) -> None:
        call = {"index": 0, "id": "call-1", "type": "function", "function": {"name": "find", "arguments": ""}}
        app = model(
            ROLE,
            chunk({"reasoning": "I search. "}),
            chunk({"tool_calls": [call]}),
            chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a": "BAD"}'}}]}),
            chunk({}, finish="tool_calls"),
            DONE,
        )
        response = gate(stub, app).ask(USER)
        assert stub.judged == [['I search. find{"a": "BAD"}']]
        assert BAD.encode() not in response.body

    def test_a_comment_passes_when_nothing_waits(self, stub: StubClassifier) -> None:
        comment = b": keep-alive\n\n"
        response = gate(stub, model(ROLE, says("x" * PIECE), comment, says("y"), END, DONE)).ask(USER)
        assert [message["body"] for message in response.messages[1:]] == [
            ROLE + says("x" * PIECE),
            comment,
            says("y") + END + DONE,
        ]

    def test_what_is_no_json_is_judged_as_it_is(self, stub: StubClassifier) -> None:
        response = gate(stub, model(b"data: so BAD\n\n", DONE)).ask(USER)
        assert stub.judged == [["so BAD"]]
        assert BAD.encode() not in response.body

    def test_flag_marks_a_later_piece_with_a_comment_once(self, stub: StubClassifier) -> None:
        sent = [ROLE, says("x" * PIECE), says(BAD + "x" * PIECE), says(BAD + "y" * PIECE), END, DONE]
        response = gate(stub, model(*sent), moderation_policy="flag").ask(USER)
        assert "x-moderation" not in response.headers
        comment = b": x-moderation: output\n\n"
        assert response.body == b"".join([*sent[:2], comment, *sent[2:]])

    def test_log_changes_nothing(self, stub: StubClassifier) -> None:
        sent = [ROLE, says(BAD + "x" * PIECE), says(BAD), END, DONE]
        response = gate(stub, model(*sent), moderation_policy="log").ask(USER)
        assert response.body == b"".join(sent)
        assert "x-moderation" not in response.headers

    def test_an_endpoint_that_is_dead_from_the_start_is_503(self, stub: StubClassifier) -> None:
        stub.status = 500
        app = model(ROLE, says("x" * PIECE))
        app.waits = True
        response = gate(stub, app).ask(USER)
        assert (response.status, response.error["code"]) == (503, "moderation_unavailable")
        assert app.ended

    def test_an_endpoint_that_dies_later_ends_the_stream_with_an_error(self, stub: StubClassifier) -> None:
        stub.dies_after = 1
        app = model(ROLE, says("x" * PIECE), says("y" * PIECE))
        app.waits = True
        response = gate(stub, app).ask(USER)
        assert response.messages[1]["body"] == ROLE + says("x" * PIECE)
        assert events(response)[-1]["error"]["code"] == "moderation_unavailable"
        assert response.body.endswith(DONE)
        assert b"yyy" not in response.body
        assert app.ended

    def test_a_client_that_hangs_up_while_a_piece_is_judged_ends_everything(self, stub: StubClassifier) -> None:
        stub.open.clear()
        app = model(ROLE, says("x" * PIECE))
        served = gate(stub, app)

        async def hang_up() -> None:
            task = asyncio.create_task(call_without_end(served))
            await asyncio.to_thread(stub.asked.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(hang_up())
        assert app.ended

    def test_log_probabilities_wait_with_their_text(self, stub: StubClassifier) -> None:
        spoken = event({"choices": [{"index": 0, "delta": {"content": BAD}, "logprobs": {"content": []}}]})
        response = gate(stub, model(ROLE, spoken, DONE)).ask(USER)
        assert BAD.encode() not in response.body

    def test_tokens_are_judged_while_a_stop_string_still_holds_their_text_back(self, stub: StubClassifier) -> None:
        ahead = [said_with_tokens("", token) for token in ("x" * PIECE, "BA", "D", " and so on")]
        response = gate(stub, model(ROLE, *ahead, DONE)).ask(USER)
        assert b'"D"' not in response.body
        assert [choice["finish_reason"] for data in events(response) for choice in data["choices"]][-1] == WITHHELD

    def test_tokens_are_a_text_of_their_own(self, stub: StubClassifier) -> None:
        sent = [ROLE, said_with_tokens("", "Paris lies "), said_with_tokens("Paris lies on", "on"), DONE]
        assert gate(stub, model(*sent)).ask(USER).body == b"".join(sent)
        assert stub.judged == [["Paris lies on", "Paris lies on"]]


def said_with_tokens(text: str, token: str) -> bytes:
    logprobs = {"content": [{"token": token, "logprob": 0, "bytes": [], "top_logprobs": []}]}
    return event({"choices": [{"index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": None}]})


async def _ignore(message: Any) -> None:
    pass


async def call_without_end(served: Gate, send: Send = _ignore) -> None:
    """A request whose client never hangs up."""
    body = [{"type": "http.request", "body": json.dumps(USER).encode(), "more_body": False}]

    async def receive() -> Any:
        if body:
            return body.pop()
        return await asyncio.Event().wait()

    await served.app(scope_of(CHAT), receive, send)


class TestOtherStreams:
    def test_a_completion_is_finished_by_the_filter(self, stub: StubClassifier) -> None:
        def text(value: str) -> bytes:
            choice = {"index": 0, "text": value, "logprobs": None, "finish_reason": None}
            return event(
                {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "demo", "choices": [choice]}
            )

        response = gate(stub, model(text("x" * PIECE), text(BAD), DONE)).ask({"prompt": "Hi"}, "/v1/completions")
        assert (
            response.body
            == text("x" * PIECE)
            + event(
                {
                    "id": "cmpl-1",
                    "object": "text_completion",
                    "created": 1,
                    "model": "demo",
                    "choices": [{"index": 0, "text": "", "logprobs": None, "finish_reason": "content_filter"}],
                }
            )
            + DONE
        )

    def test_a_message_ends_as_a_refusal(self, stub: StubClassifier) -> None:
        def named(data: dict[str, Any]) -> bytes:
            return event(data, data["type"])

        def text(value: str) -> bytes:
            delta = {"type": "text_delta", "text": value}
            return named({"type": "content_block_delta", "index": 0, "delta": delta})

        start = named({"type": "message_start", "message": {"id": "msg_1", "content": [], "model": "demo"}})
        block = named({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        response = gate(stub, model(start, block, text("x" * PIECE), text(BAD))).ask(USER, "/v1/messages")
        assert response.body == b"".join(
            [
                start,
                block,
                text("x" * PIECE),
                named({"type": "content_block_stop", "index": 0}),
                named(
                    {
                        "type": "message_delta",
                        "delta": {"stop_reason": "refusal", "stop_sequence": None},
                        "usage": {"input_tokens": 7, "output_tokens": 5},
                    }
                ),
                named({"type": "message_stop"}),
            ]
        )

    def test_a_message_whose_start_is_harmful_still_begins(self, stub: StubClassifier) -> None:
        start = event({"type": "message_start", "message": {"id": "msg_1"}}, "message_start")
        block = event(
            {
                "type": "content_block_start",
                "index": 0,
                "content_block": {"type": "tool_use", "name": BAD, "input": {}},
            },
            "content_block_start",
        )
        response = gate(stub, model(start, block)).ask(USER, "/v1/messages")
        assert [data["type"] for data in events(response)] == ["message_start", "message_delta", "message_stop"]

    def response_events(self, *texts: str) -> Sequence[bytes]:
        whole = "".join(texts)
        part = {"type": "output_text", "text": whole, "annotations": []}
        item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
        response = {
            "id": "resp_1",
            "object": "response",
            "created_at": 1,
            "model": "demo",
            "status": "in_progress",
            "output": [],
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            "instructions": BAD,
        }
        datas: list[dict[str, Any]] = [
            {"type": "response.created", "response": response},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
            *({"type": "response.output_text.delta", "delta": text, "logprobs": []} for text in texts),
            {"type": "response.output_text.done", "text": whole},
            {"type": "response.content_part.done", "part": part},
            {"type": "response.output_item.done", "item": item},
            {"type": "response.completed", "response": {**response, "status": "completed", "output": [item]}},
        ]
        return [event({**data, "sequence_number": n}, data["type"]) for n, data in enumerate(datas)]

    def test_a_response_is_judged_once_although_it_repeats_itself(self, stub: StubClassifier) -> None:
        sent = self.response_events("x" * PIECE, "y" * PIECE)
        response = gate(stub, model(*sent)).ask({"input": "Hi"}, "/v1/responses")
        assert response.body == b"".join(sent)
        assert stub.judged == [["x" * PIECE], ["x" * PIECE + "y" * PIECE]]

    def test_a_response_ends_incomplete(self, stub: StubClassifier) -> None:
        sent = self.response_events("x" * PIECE, BAD)
        response = gate(stub, model(*sent)).ask({"input": "Hi"}, "/v1/responses")
        assert response.body.startswith(b"".join(sent[:3]))
        last = events(response)[-1]
        assert (last["type"], last["sequence_number"], len(events(response))) == ("response.incomplete", 3, 4)
        parsed = OpenAIResponse.model_validate(last["response"])
        assert (parsed.status, parsed.output) == ("incomplete", [])
        assert parsed.incomplete_details is not None
        assert parsed.incomplete_details.reason == "content_filter"
        assert parsed.usage is not None
        assert parsed.usage.total_tokens == 12

    def test_text_that_no_delta_said_is_judged_too(self, stub: StubClassifier) -> None:
        item = {"id": "fc_1", "type": "function_call", "name": "f", "arguments": f'{{"a": "{BAD}"}}'}
        sent = event({"type": "response.output_item.done", "item": item, "sequence_number": 0})
        response = gate(stub, model(sent)).ask({"input": "Hi"}, "/v1/responses")
        assert BAD.encode() not in response.body

    def test_the_tokens_of_a_response_are_judged_once_and_before_they_leave(self, stub: StubClassifier) -> None:
        kind = "response.output_text.delta"
        logprobs = [{"token": BAD, "logprob": 0, "top_logprobs": []}]
        sent = event({"type": kind, "delta": "", "logprobs": logprobs, "sequence_number": 0}, kind)
        response = gate(stub, model(sent)).ask({"input": "Hi"}, "/v1/responses")
        assert BAD.encode() not in response.body
        harmless = [{"token": "x" * PIECE}], [{"token": "y" * PIECE}]
        deltas = [{"type": kind, "delta": "", "logprobs": tokens} for tokens in harmless]
        done = {"type": "response.output_text.done", "text": "", "logprobs": [*harmless[0], *harmless[1]]}
        assert gate(stub, model(*map(event, [*deltas, done]))).ask({"input": "Hi"}, "/v1/responses").status == 200
        assert stub.judged[1:] == [["x" * PIECE], ["x" * PIECE + "y" * PIECE]]

    @pytest.mark.parametrize(
        ("path", "kind"), [("/v1/messages", "content_block_delta"), ("/v1/responses", "response.output_text.delta")]
    )
    def test_a_failure_in_the_middle_is_an_error_event(self, stub: StubClassifier, path: str, kind: str) -> None:
        stub.dies_after = 1
        first, second = (event({"type": kind, "index": 0, "delta": letter * PIECE}, kind) for letter in "xy")
        served = gate(stub, model(first, second))
        response = served.ask({"input": "Hi", **USER}, path)
        assert response.body.startswith(first + b'event: error\ndata: {"type": "error", ')
        assert is_whole(response)
        error = events(response)[1]
        assert error.get("error", error)["code"] == "moderation_unavailable"
        assert served.records[-1].failed
