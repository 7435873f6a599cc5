"""Prevents: a route of a new vLLM without a rule, a typed error that clients do not recognise, and a key in a log.

One server with keys on; the list of routes needs no engine.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from deploy import keys
from deploy.gateway.key_store import CHECK_PERIOD_S
from deploy.gateway.routes import RULES, Rule
from tests.live.deployment import Deployment, eventually, serving

pytestmark = pytest.mark.live
QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass(frozen=True)
class Guarded:
    """A server with keys on, its key file, and the keys that were valid when it started."""

    server: Deployment
    file: Path
    key: str
    restricted: str

    def openai(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.server.url}/v1", api_key=key or self.key, max_retries=0)

    def anthropic(self, key: str | None = None) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.server.url, api_key=key or self.key, max_retries=0)

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.get(f"{self.server.url}{path}", headers=headers, timeout=60)


def new_key(file: Path, *arguments: str) -> str:
    """A key as the command prints it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        assert keys.main(["new", "--file", str(file), *arguments]) == 0
    return printed.getvalue().strip()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    key = new_key(file, "--name", "team")
    restricted = new_key(file, "--name", "restricted", "--models", "another-model")
    with serving("--gateway.keys-file", str(file)) as server:
        yield Guarded(server, file, key, restricted)


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


def test_only_health_answers_without_a_key(guarded: Guarded) -> None:
    answers = {path: guarded.get(path).status_code for path, rule in RULES.items() if "{" not in path}
    assert [path for path, status in answers.items() if status == 200] == ["/health"]
    assert {answers[path] for path in answers if RULES[path] is Rule.KEY} == {401}
    assert {answers[path] for path in answers if RULES[path] is Rule.CLOSED} == {403}


@pytest.mark.parametrize("path", [path for path, rule in RULES.items() if rule is Rule.CLOSED])
def test_a_key_opens_no_closed_route(guarded: Guarded, path: str) -> None:
    answer = guarded.get(path, guarded.key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "route_closed")


def test_a_key_streams_a_chat(guarded: Guarded) -> None:
    stream = guarded.openai().chat.completions.create(
        model="demo", messages=QUESTION, temperature=0, max_tokens=20, stream=True
    )
    assert "Paris" in "".join(chunk.choices[0].delta.content or "" for chunk in stream)


def test_openais_client_raises_its_typed_exceptions(guarded: Guarded) -> None:
    chat = {"model": "demo", "messages": QUESTION, "max_tokens": 1}
    with pytest.raises(openai.AuthenticationError) as unknown:
        guarded.openai("ms-00000000-wrong").chat.completions.create(**chat)
    assert (unknown.value.code, unknown.value.type) == ("invalid_api_key", "invalid_request_error")
    assert unknown.value.response.headers["www-authenticate"] == 'Bearer realm="mistral-serve"'
    assert unknown.value.request_id
    with pytest.raises(openai.PermissionDeniedError) as forbidden:
        guarded.openai(guarded.restricted).chat.completions.create(**chat)
    assert (forbidden.value.code, forbidden.value.param) == ("model_not_allowed", "model")
    with pytest.raises(openai.NotFoundError) as missing:
        guarded.openai().embeddings.create(model="demo", input="Hi")
    assert missing.value.code == "not_found"
    with pytest.raises(openai.NotFoundError) as model:
        guarded.openai().chat.completions.create(**chat | {"model": "gpt-4"})
    assert (model.value.code, model.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as wrong:
        guarded.openai().chat.completions.create(**chat | {"max_tokens": 100_000})
    assert wrong.value.type == "invalid_request_error"


def test_anthropics_client_works_with_its_own_header_and_raises_its_typed_exceptions(guarded: Guarded) -> None:
    request: Any = {"model": "demo", "messages": QUESTION, "max_tokens": 20, "extra_body": {"temperature": 0}}
    answer: Any = guarded.anthropic().messages.create(**request)
    assert "Paris" in answer.content[0].text
    with pytest.raises(anthropic.AuthenticationError):
        guarded.anthropic("wrong").messages.create(**request)
    with pytest.raises(anthropic.PermissionDeniedError):
        guarded.anthropic(guarded.restricted).messages.create(**request)
    with pytest.raises(anthropic.NotFoundError):
        guarded.anthropic().messages.create(**request | {"model": "gpt-4"})


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
    new = new_key(guarded.file, "--name", "later")
    eventually(lambda: guarded.get("/v1/models", new).status_code == 200, 10 * CHECK_PERIOD_S, "the new key opens")
    assert keys.main(["remove", "later", "--file", str(guarded.file)]) == 0
    eventually(lambda: guarded.get("/v1/models", new).status_code == 401, 10 * CHECK_PERIOD_S, "it opens no more")
    assert guarded.get("/v1/models", guarded.key).status_code == 200


def test_no_key_is_in_any_log(guarded: Guarded) -> None:
    assert guarded.get("/v1/models", guarded.key).status_code == 200
    session = next(
        argument.removeprefix("--log_dir=")
        for process in guarded.server.named("gcs_server")
        for argument in process.cmdline()
        if argument.startswith("--log_dir=")
    )
    secrets = [key[12:] for key in (guarded.key, guarded.restricted)]
    written = [file.read_bytes() for file in Path(session).rglob("*") if file.is_file()]
    assert len(written) > 1
    assert [secret for secret in secrets for text in written if secret.encode() in text] == []
    assert [secret for secret in secrets for line in guarded.server.stderr if secret in line] == []
