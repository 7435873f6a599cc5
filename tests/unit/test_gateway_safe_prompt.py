"""Prevents: a chat without the operator's system prompt, a wish that vLLM sees, and one that switches a force off."""

from typing import Any

import pytest

from deploy.gateway.asgi import Receive, Scope, Send
from deploy.gateway.routes import SECOND_DOORS
from tests.unit.asgi_calls import call, scope_of
from tests.unit.guard_gate import TEXT, Gate
from tests.unit.key_gate import CHAT
from tests.unit.records import key

USER = {"role": "user", "content": "Hi"}
SYSTEM = {"role": "system", "content": TEXT}
PART = {"type": "text", "text": "Be brief."}


def always(path: str, body: Any) -> Any:
    return Gate(safe_prompt="always").forwarded(body, path)


class TestWhere:
    def test_a_chat_without_a_system_message_gets_one(self) -> None:
        assert always(CHAT, {"messages": [USER]}) == {"messages": [SYSTEM, USER]}

    @pytest.mark.parametrize("role", ["system", "developer"])
    def test_a_system_message_is_kept_behind_it_in_one_message(self, role: str) -> None:
        body = {"messages": [{"role": role, "content": "Be brief.", "name": "me"}, USER]}
        merged = {"role": role, "content": "Be safe.\n\nBe brief.", "name": "me"}
        assert always(CHAT, body) == {"messages": [merged, USER]}

    def test_parts_of_a_system_message_are_kept_behind_it(self) -> None:
        merged = [{"type": "text", "text": TEXT}, PART]
        assert always(CHAT, {"messages": [{"role": "system", "content": [PART]}, USER]})["messages"] == [
            {"role": "system", "content": merged},
            USER,
        ]

    @pytest.mark.parametrize("content", [None, ""])
    def test_an_empty_system_message_is_filled(self, content: Any) -> None:
        assert always(CHAT, {"messages": [{"role": "system", "content": content}, USER]})["messages"] == [SYSTEM, USER]

    def test_an_empty_chat_gets_it_too(self) -> None:
        assert always(CHAT, {"messages": []}) == {"messages": [SYSTEM]}

    @pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
    @pytest.mark.parametrize(
        ("system", "expected"),
        [
            (None, TEXT),
            ("Be brief.", "Be safe.\n\nBe brief."),
            ([PART], [{"type": "text", "text": TEXT}, PART]),
        ],
    )
    def test_anthropics_system_field_begins_with_it(self, path: str, system: Any, expected: Any) -> None:
        assert always(path, {"messages": [USER], "system": system}) == {"messages": [USER], "system": expected}

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ({"input": "Hi"}, {"input": "Hi", "instructions": TEXT}),
            ({"input": [USER]}, {"input": [USER], "instructions": TEXT}),
            ({"input": "Hi", "instructions": "Be brief."}, {"input": "Hi", "instructions": "Be safe.\n\nBe brief."}),
            (
                {"input": [{"role": "system", "content": "Be brief."}, USER]},
                {"input": [{"role": "system", "content": "Be safe.\n\nBe brief."}, USER]},
            ),
            (
                {"input": [{"role": "developer", "content": [{"type": "input_text", "text": "Be brief."}]}]},
                {
                    "input": [
                        {
                            "role": "developer",
                            "content": [
                                {"type": "input_text", "text": TEXT},
                                {"type": "input_text", "text": "Be brief."},
                            ],
                        }
                    ]
                },
            ),
        ],
    )
    def test_a_response_gets_one_system_message(self, body: Any, expected: Any) -> None:
        assert always("/v1/responses", body) == expected

    def test_text_completions_and_tokenize_stay_as_they_are(self) -> None:
        assert always("/v1/completions", {"prompt": "Hi"}) == {"prompt": "Hi"}
        assert always("/tokenize", {"messages": [USER]}) == {"messages": [USER]}

    @pytest.mark.parametrize(
        ("path", "body", "param"),
        [
            (CHAT, {}, "messages"),
            (CHAT, {"messages": "Hi"}, "messages"),
            (CHAT, {"messages": [{"role": "system", "content": 7}]}, "messages[0].content"),
            ("/v1/messages", {"system": {"text": "Hi"}}, "system"),
            ("/v1/responses", {"input": "Hi", "instructions": 7}, "instructions"),
        ],
    )
    def test_a_chat_of_another_type_is_400(self, path: str, body: Any, param: str) -> None:
        gate = Gate(safe_prompt="always")
        response = gate.ask(body, path)
        assert (response.status, response.error["param"]) == (400, param)
        assert gate.upstream.scopes == []


class TestWhen:
    @pytest.mark.parametrize("wish", [{}, {"safe_prompt": False}, {"safe_prompt": True}, {"safe_prompt": None}])
    def test_no_request_switches_off_what_the_settings_force(self, wish: dict[str, Any]) -> None:
        assert always(CHAT, {"messages": [USER]} | wish) == {"messages": [SYSTEM, USER]}

    def test_on_request_a_request_gets_it_by_asking(self) -> None:
        gate = Gate(safe_prompt="on_request")
        assert gate.forwarded({"messages": [USER], "safe_prompt": True}) == {"messages": [SYSTEM, USER]}

    def test_on_request_other_requests_do_not_get_it_and_lose_the_field(self) -> None:
        assert Gate(safe_prompt="on_request").forwarded({"messages": [USER], "safe_prompt": False}) == {
            "messages": [USER]
        }

    def test_a_request_that_nothing_applies_to_passes_byte_for_byte(self) -> None:
        gate = Gate(safe_prompt="on_request")
        sent = b'{"messages": [ {"role":"user","content":"\\u00e9"} ] }'
        assert call(gate.app, scope_of(CHAT), [sent]).status == 200
        assert gate.upstream.body == sent

    @pytest.mark.parametrize("wish", [{}, {"safe_prompt": False}])
    def test_a_guarded_key_gets_it_whatever_it_asks_for(self, wish: dict[str, Any]) -> None:
        gate = Gate(key(guard=True), safe_prompt="on_request")
        assert gate.forwarded({"messages": [USER]} | wish) == {"messages": [SYSTEM, USER]}

    def test_off_is_off_for_a_guarded_key(self) -> None:
        assert Gate(key(guard=True), safe_prompt="off").forwarded({"messages": [USER]}) == {"messages": [USER]}

    @pytest.mark.parametrize("wish", ["true", 1, [], {}])
    def test_a_wish_of_another_type_is_400(self, wish: Any) -> None:
        gate = Gate(safe_prompt="on_request")
        response = gate.ask({"messages": [USER], "safe_prompt": wish})
        assert (response.status, response.error["param"]) == (400, "safe_prompt")
        assert response.error["message"] == "safe_prompt is neither true nor false."
        assert gate.upstream.scopes == []

    @pytest.mark.parametrize(("when", "path"), [("off", CHAT), ("on_request", "/v1/completions")])
    def test_a_wish_that_cannot_be_met_is_400(self, when: str, path: str) -> None:
        response = Gate(safe_prompt=when).ask({"messages": [USER], "prompt": "Hi", "safe_prompt": True}, path)
        assert (response.status, response.error["param"]) == (400, "safe_prompt")

    @pytest.mark.parametrize("path", sorted(SECOND_DOORS))
    def test_a_forced_guard_closes_the_second_doors(self, path: str) -> None:
        response = Gate(safe_prompt="always").ask({"messages": [USER]}, path)
        assert (response.status, response.error["code"]) == (403, "route_closed")
        assert Gate(safe_prompt="on_request").ask({"messages": [USER]}, path).status == 200

    def test_a_path_that_only_starlette_takes_for_a_route_is_guarded(self) -> None:
        assert always(f"{CHAT}\n", {"messages": [USER]}) == {"messages": [SYSTEM, USER]}

    def test_what_comes_after_the_changed_body_is_the_clients_end(self) -> None:
        seen: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            seen.extend([(await receive())["type"], (await receive())["type"]])

        call(Gate(app=app, safe_prompt="always").app, scope_of(CHAT), [b'{"messages": []}'])
        assert seen == ["http.request", "http.disconnect"]
