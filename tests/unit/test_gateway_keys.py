"""Prevents: a request let in without a valid key, a route that slips in open, and a key that shows up in a log."""

import asyncio
import hmac
import logging
from datetime import UTC, datetime, timedelta
from hmac import compare_digest
from pathlib import Path

import pytest

from deploy.gateway.key_file import Key, digest, new_token, prefix_of
from deploy.gateway.key_store import CHECK_PERIOD_S, KeyStore
from deploy.gateway.routes import RULES, Rule, rule_of
from tests.unit.asgi_calls import call, scope_of
from tests.unit.key_gate import CHAT, Gate, code_of, entry, write


@pytest.fixture
def token() -> str:
    return new_token()


@pytest.fixture
def gate(tmp_path: Path, token: str) -> Gate:
    return Gate(tmp_path / "keys.json", entry(token))


class TestWhoGetsIn:
    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
    def test_a_valid_key_opens_the_model(self, gate: Gate, token: str, scheme: str) -> None:
        assert gate.ask(scope_of(CHAT, {"authorization": f"{scheme} {token}"})).status == 200

    def test_the_app_never_sees_the_key(self, gate: Gate, token: str) -> None:
        gate.ask(scope_of(CHAT, {"authorization": f"Bearer {token}", "x-api-key": token, "accept": "*/*"}))
        assert [name for name, _ in gate.upstream.scopes[0]["headers"]] == [b"accept", b"x-request-id"]

    @pytest.mark.parametrize("tail", ["", "x", "\xff"])
    def test_whole_keys_are_compared_by_their_hashes_in_constant_time(
        self, gate: Gate, token: str, tail: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        compared: list[tuple[str, str]] = []

        def compare(given: str, known: str) -> bool:
            compared.append((given, known))
            return compare_digest(given, known)

        monkeypatch.setattr(hmac, "compare_digest", compare)
        response = gate.ask(scope_of(CHAT, {"authorization": f"Bearer {token}{tail}"}))
        assert response.status == (401 if tail else 200)
        assert compared == [(digest(f"{token}{tail}".encode("latin-1")), digest(token.encode()))]

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"authorization": ""},
            {"authorization": "Bearer"},
            {"authorization": "Bearer "},
            {"authorization": "Basic TOKEN"},
            {"authorization": "TOKEN"},
            {"authorization": "Bearer ms-00000000-x"},
            {"authorization": "Bearer \xff\xfe\x00"},
            {"authorization": "Bearer TOKENx"},
            {"authorization": "Bearer PREFIX"},
            {"x-api-key": "TOKEN"},
            {"authorization": "Bearer wrong", "x-api-key": "TOKEN"},
        ],
    )
    def test_anything_else_is_401_with_a_challenge(self, gate: Gate, token: str, headers: dict[str, str]) -> None:
        given = {
            name: value.replace("TOKEN", token).replace("PREFIX", prefix_of(token.encode()))
            for name, value in headers.items()
        }
        response = gate.ask(scope_of(CHAT, given))
        assert code_of(response) == (401, "invalid_api_key")
        assert response.headers["www-authenticate"] == 'Bearer realm="mistral-serve"'
        assert gate.upstream.scopes == []

    @pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
    def test_anthropics_endpoints_take_anthropics_header(self, gate: Gate, token: str, path: str) -> None:
        assert gate.ask(scope_of(path, {"x-api-key": token})).status == 200
        assert gate.ask(scope_of(path, {"x-api-key": "wrong"})).status == 401

    def test_a_disabled_key_opens_nothing(self, tmp_path: Path, token: str) -> None:
        gate = Gate(tmp_path / "k", entry(token, disabled=True))
        assert gate.ask_with(token).error["message"] == "This API key is disabled."

    def test_a_key_opens_until_it_expires(self, tmp_path: Path, token: str) -> None:
        other = new_token()
        now = datetime.now(UTC)
        gate = Gate(
            tmp_path / "k",
            entry(token, expires=(now + timedelta(hours=1)).isoformat()),
            entry(other, expires=(now - timedelta(seconds=1)).isoformat()),
        )
        assert gate.ask_with(token).status == 200
        assert code_of(gate.ask_with(other)) == (401, "invalid_api_key")

    def test_a_file_without_keys_lets_nobody_in(self, tmp_path: Path, token: str) -> None:
        assert Gate(tmp_path / "k").ask_with(token).status == 401

    def test_a_websocket_is_refused(self, gate: Gate) -> None:
        response = call(gate.app, {"type": "websocket", "path": CHAT, "headers": []})
        assert response.messages == [{"type": "websocket.close", "code": 1008}]
        assert gate.upstream.scopes == []

    def test_the_start_of_the_server_passes(self, gate: Gate) -> None:
        call(gate.app, {"type": "lifespan"})
        assert gate.upstream.scopes == [{"type": "lifespan"}]


class TestRoutes:
    @pytest.mark.parametrize("path", [path for path, rule in RULES.items() if rule is Rule.OPEN])
    def test_an_open_route_needs_no_key(self, gate: Gate, path: str) -> None:
        assert gate.ask(scope_of(path, method="GET")).status == 200

    def test_health_is_the_only_open_route(self) -> None:
        assert [path for path, rule in RULES.items() if rule is Rule.OPEN] == ["/health"]

    @pytest.mark.parametrize("path", [path for path, rule in RULES.items() if rule is Rule.KEY])
    def test_a_route_of_the_model_needs_a_key(self, gate: Gate, token: str, path: str) -> None:
        assert gate.ask(scope_of(path)).status == 401
        assert gate.ask_with(token, path).status == 200

    @pytest.mark.parametrize("path", [path for path, rule in RULES.items() if rule is Rule.CLOSED])
    def test_a_closed_route_serves_nobody(self, gate: Gate, token: str, path: str) -> None:
        assert code_of(gate.ask(scope_of(path))) == (403, "route_closed")
        assert code_of(gate.ask_with(token, path)) == (403, "route_closed")
        assert gate.upstream.scopes == []

    @pytest.mark.parametrize(
        "path",
        [
            "/",
            "",
            "/sleep",
            "/metricsx",
            "/metrics/",
            "/docs/",
            "/health/",
            "/v1/models/",
            "//health",
            "/v1/load_lora_adapter",
        ],
    )
    def test_a_route_that_is_not_listed_is_never_reached(self, gate: Gate, token: str, path: str) -> None:
        assert code_of(gate.ask(scope_of(path))) == (401, "invalid_api_key")
        assert code_of(gate.ask_with(token, path)) == (404, "not_found")
        assert gate.upstream.scopes == []

    def test_metrics_can_be_opened(self, tmp_path: Path, token: str) -> None:
        gate = Gate(tmp_path / "k", entry(token), open_metrics=True)
        assert gate.ask(scope_of("/metrics", method="GET")).status == 200
        assert gate.ask(scope_of("/version", method="GET")).status == 403

    @pytest.mark.parametrize(("root", "asked"), [("/llm", "/metrics"), ("/llm/", "/metrics"), ("/metrics", "/health")])
    def test_a_prefix_that_the_application_is_mounted_under_does_not_count(
        self, gate: Gate, root: str, asked: str
    ) -> None:
        scope = scope_of(root.rstrip("/") + asked)
        scope["root_path"] = root
        assert gate.ask(scope).status == (200 if asked == "/health" else 403)

    @pytest.mark.parametrize(
        ("path", "rule"),
        [
            ("/v1/models/org/name", Rule.KEY),
            ("/v1/responses/resp_1", Rule.KEY),
            ("/v1/responses/resp_1/cancel", Rule.KEY),
            ("/v1/responses/resp_1/other", None),
        ],
    )
    def test_templates_match_as_fastapi_matches_them(self, path: str, rule: Rule | None) -> None:
        assert rule_of(path) is rule


class TestRotation:
    def test_a_new_key_opens_and_a_removed_one_does_not_within_a_second(self, gate: Gate, token: str) -> None:
        new = new_token()
        assert gate.ask_with(new).status == 401
        write(gate.path, entry(new))
        gate.clock.now += CHECK_PERIOD_S
        assert gate.ask_with(new).status == 200
        assert gate.ask_with(token).status == 401

    def test_the_file_is_looked_at_once_a_second_at_most(self, gate: Gate, token: str) -> None:
        write(gate.path)
        gate.clock.now += CHECK_PERIOD_S - 0.01
        assert gate.ask_with(token).status == 200

    def test_a_link_that_is_turned_to_another_file_is_noticed(self, tmp_path: Path, token: str) -> None:
        new = new_token()
        link = tmp_path / "link"
        write(tmp_path / "new.json", entry(new))
        gate = Gate(tmp_path / "old.json", entry(token))
        link.symlink_to("old.json")
        gate.watch(KeyStore(link, gate.clock))
        (tmp_path / "turned").symlink_to("new.json")
        (tmp_path / "turned").replace(link)
        gate.clock.now += CHECK_PERIOD_S
        assert gate.ask_with(new).status == 200

    @pytest.mark.parametrize("content", ["keys: [", "{}", '{"keys": [{}]}', None])
    def test_a_broken_file_keeps_the_old_keys_and_says_so_once(
        self, gate: Gate, token: str, content: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        if content is None:
            gate.path.unlink()
        else:
            gate.path.write_text(content)
        for _ in range(3):
            gate.clock.now += CHECK_PERIOD_S
            assert gate.ask_with(token).status == 200
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert str(gate.path) in record.message
        assert record.message.endswith("; the keys read before stay valid")

    def test_a_mended_file_is_taken_again(self, gate: Gate) -> None:
        new = new_token()
        gate.path.write_text("keys: [")
        gate.clock.now += CHECK_PERIOD_S
        assert gate.ask_with(new).status == 401
        write(gate.path, entry(new))
        gate.clock.now += CHECK_PERIOD_S
        assert gate.ask_with(new).status == 200

    def test_many_requests_at_once_read_a_changed_file_once(self, gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="ray.serve")
        write(gate.path, entry(new_token()), entry(new_token()))
        gate.clock.now += CHECK_PERIOD_S

        async def all_at_once() -> None:
            await asyncio.gather(*(gate.keys.refresh() for _ in range(20)))

        asyncio.run(all_at_once())
        assert [record.message for record in caplog.records] == [f"2 API keys read from {gate.path}"]


def test_no_key_is_ever_logged_or_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tokens = [new_token() for _ in range(3)]
    gate = Gate(tmp_path / "k", entry(tokens[0]), entry(tokens[1], disabled=True))
    answers = [gate.ask_with(token, path).body for token in tokens for path in (CHAT, "/metrics", "/nowhere")]
    # The mistakes that put a whole key into the file.
    for wrong in ({"hash": tokens[0]}, {"prefix": tokens[0]}, {"key": tokens[0]}, {"name": tokens[0] * 2}):
        write(gate.path, entry(tokens[2]) | wrong)
        gate.clock.now += CHECK_PERIOD_S
        answers.append(gate.ask_with(tokens[0]).body)
    assert len([record for record in caplog.records if record.name == "ray.serve"]) == 4
    shown = caplog.text + b"".join(answers).decode() + repr(Key.model_validate(entry(tokens[0])))
    assert [token for token in tokens if token in shown or token[12:] in shown or digest(token.encode()) in shown] == []
