"""Prevents: a route of a new vLLM without a rule, and keys that open what they should not.

The list of routes needs no engine.
"""

import re

import httpx
import pytest

from deploy import keys
from deploy.gateway.key_store import CHECK_PERIOD_S
from deploy.gateway.routes import METRICS, RULES, Rule
from tests.live.deployment import eventually
from tests.live.gateway.guarded import QUESTION, Guarded

pytestmark = pytest.mark.live
CLOSED = [path for path, rule in RULES.items() if rule is Rule.CLOSED and path != METRICS]


def test_every_route_of_vllms_app_has_a_rule() -> None:
    from ray.llm._internal.serve.core.server.llm_server import _add_openai_models_retrieve_route
    from ray.serve.llm import LLMConfig
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.api_server import build_app
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(["--model", "demo"])
    app = build_app(arguments, supported_tasks=("generate",))
    _add_openai_models_retrieve_route(app, LLMConfig(model_loading_config={"model_id": "demo"}))
    assert {route.path for route in app.routes} == set(RULES)  # type: ignore[attr-defined, unused-ignore]


def test_only_health_and_the_opened_metrics_answer_without_a_key(guarded: Guarded) -> None:
    answers = {path: guarded.get(path).status_code for path in RULES if "{" not in path}
    assert [path for path, status in answers.items() if status == 200] == ["/health", METRICS]
    assert {answers[path] for path in answers if RULES[path] is Rule.KEY} == {401}
    assert {answers[path] for path in CLOSED} == {403}


@pytest.mark.parametrize("path", CLOSED)
def test_a_key_opens_no_closed_route(guarded: Guarded, path: str) -> None:
    answer = guarded.get(path, guarded.key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "route_closed")


def test_a_key_streams_a_chat(guarded: Guarded) -> None:
    stream = guarded.openai().chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=20, stream=True
    )
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/chat/completions", b"", 405),
        ("POST", "/v1/chat/completions", b"{", 400),
        ("POST", "/v1/chat/completions", b"[]", 400),
        ("POST", "/v1/chat/completions", b'{"messages": 1}', 400),
        ("POST", "/tokenize", b"\xff", 400),
        ("GET", "/v1/models/none", b"", 404),
        ("GET", "/nowhere", b"", 404),
    ],
)
def test_every_error_is_openais_object(guarded: Guarded, method: str, path: str, body: bytes, status: int) -> None:
    headers = {"authorization": f"Bearer {guarded.key}", "content-type": "application/json"}
    answer = httpx.request(method, f"{guarded.server.url}{path}", headers=headers, content=body, timeout=60)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert error["type"] == "invalid_request_error"
    assert not isinstance(error["code"], int)
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


def test_keys_come_and_go_without_a_restart(guarded: Guarded) -> None:
    new = guarded.new_key("--name", "later")
    eventually(lambda: guarded.get("/v1/models", new).status_code == 200, 10 * CHECK_PERIOD_S, "the new key opens")
    assert keys.main(["remove", "later", "--file", str(guarded.file)]) == 0
    eventually(lambda: guarded.get("/v1/models", new).status_code == 401, 10 * CHECK_PERIOD_S, "it opens no more")
    assert guarded.get("/v1/models", guarded.key).status_code == 200


def test_ray_s_own_headers_end_no_request(guarded: Guarded) -> None:
    headers = {"authorization": f"Bearer {guarded.key}", "x-request-timeout-seconds": "0.001"}
    body = {"model": "demo", "prompt": "Hi", "max_tokens": 4, "ignore_eos": True}
    answer = httpx.post(f"{guarded.server.url}/v1/completions", headers=headers, json=body, timeout=60)
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 4)
