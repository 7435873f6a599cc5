"""Prevents: a model used by a key that may not use it, a body that is read without a bound, a refusal not counted."""

import json
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from deploy.gateway.key_file import new_token
from tests.unit.asgi_calls import scope_of
from tests.unit.key_gate import CHAT, LARGEST_BODY, Gate, code_of, entry


@pytest.fixture
def token() -> str:
    return new_token()


@pytest.fixture
def gate(tmp_path: Path, token: str) -> Gate:
    return Gate(tmp_path / "k", entry(token, models=["small", "large"]))


def rejections() -> dict[str, float]:
    """How many requests of the key were refused, by the reason."""
    samples = [sample for metric in REGISTRY.collect() for sample in metric.samples]
    return {
        sample.labels["reason"]: sample.value
        for sample in samples
        if sample.name == "mistral_serve_rejections_total" and sample.labels["key"] == "team"
    }


@pytest.mark.parametrize("model", ["small", "large"])
def test_a_listed_model_is_allowed_and_the_app_gets_the_whole_body(gate: Gate, token: str, model: str) -> None:
    body = json.dumps({"model": model, "prompt": "x" * 100}).encode()
    response = gate.ask(scope_of(CHAT, {"authorization": f"Bearer {token}"}), body[:20], body[20:])
    assert response.status == 200
    assert gate.upstream.body == body


@pytest.mark.parametrize("body", [{"model": "secret"}, {"model": ""}, {"model": None}, {}, {"model": ["small"]}])
def test_any_other_model_is_403(gate: Gate, token: str, body: Any) -> None:
    response = gate.ask_with(token, body=body)
    assert code_of(response) == (403, "model_not_allowed")
    assert response.error["param"] == "model"
    assert gate.upstream.scopes == []


def test_of_a_model_that_is_named_twice_the_last_counts_as_it_does_for_the_app(gate: Gate, token: str) -> None:
    scope = scope_of(CHAT, {"authorization": f"Bearer {token}"})
    assert gate.ask(scope, b'{"model": "small", "model": "secret"}').status == 403


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_400(gate: Gate, token: str, body: bytes) -> None:
    scope = scope_of(CHAT, {"authorization": f"Bearer {token}"})
    assert gate.ask(scope, body).status == 400


@pytest.mark.parametrize(
    ("length", "chunks"),
    [(str(LARGEST_BODY + 1), [b"{}"]), ("many", [b"{}"]), (None, [b" " * (LARGEST_BODY // 2 + 1)] * 3)],
)
def test_a_body_too_large_to_check_is_413(gate: Gate, token: str, length: str | None, chunks: list[bytes]) -> None:
    headers = {"authorization": f"Bearer {token}"} | ({} if length is None else {"content-length": length})
    assert code_of(gate.ask(scope_of(CHAT, headers), *chunks)) == (413, "request_too_large")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b" " * (LARGEST_BODY + 1), "limit"),
        (b'{"model": "secret"}', "model"),
        (b"[]", None),
        (b'{"model": "small"}', None),
    ],
)
def test_a_refusal_is_counted_but_a_mistake_is_not(gate: Gate, token: str, body: bytes, reason: str | None) -> None:
    before = rejections()
    gate.ask(scope_of(CHAT, {"authorization": f"Bearer {token}"}), body)
    more = {name: count - before.get(name, 0) for name, count in rejections().items() if count != before.get(name, 0)}
    assert more == ({} if reason is None else {reason: 1})


def test_a_get_has_no_body_to_check(gate: Gate, token: str) -> None:
    scope = scope_of("/v1/models", {"authorization": f"Bearer {token}"}, method="GET")
    assert gate.ask(scope).status == 200


@pytest.fixture
def open_gate(tmp_path: Path, token: str) -> Gate:
    """A gate whose key may use every model."""
    return Gate(tmp_path / "open", entry(token))


def test_every_key_s_body_is_bounded_and_must_be_json(open_gate: Gate, token: str) -> None:
    for body, status in ((b"{not json", 400), (b" " * (LARGEST_BODY + 1), 413)):
        assert open_gate.ask(scope_of(CHAT, {"authorization": f"Bearer {token}"}), body).status == status
    assert open_gate.upstream.scopes == []


def test_a_route_that_takes_no_json_may_have_an_empty_body(open_gate: Gate, token: str) -> None:
    scope = scope_of("/v1/responses/resp_1/cancel", {"authorization": f"Bearer {token}"})
    assert open_gate.ask(scope, b"").status == 200
