"""Prevents: a server that listens to the network without keys although nobody said so."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deploy import cli
from deploy.errors import UsageError
from deploy.gateway.stack import Gateway, check, check_files
from deploy.machine import Machine
from deploy.serve_host import listening_at
from deploy.settings import Settings
from deploy.strict_yaml import parse_yaml
from tests.unit.asgi_calls import Response, Upstream, call, scope_of

GIB = 1024**3
# What is written after a request would be written when the test is over.
QUIET = {"access": False}


def settings(**groups: Any) -> Settings:
    return Settings.model_validate(groups)


def required(host: str, keys: str, file: str | None = None) -> bool:
    return settings(server={"host": host}, gateway={"keys": keys, "keys_file": file}).keys_required


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text("keys: []")
    return path


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_on_loopback_keys_are_required_only_when_asked_for(host: str) -> None:
    assert not required(host, "auto")
    assert not required(host, "off")
    assert required(host, "on")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.5", "gpu-box", "localhost.example.com"])
def test_beyond_loopback_keys_are_required_unless_they_are_off(host: str) -> None:
    assert required(host, "auto")
    assert required(host, "on")
    assert not required(host, "off")


@pytest.mark.parametrize(
    ("serve_host", "host", "keys", "needed"),
    [
        ("0.0.0.0", "127.0.0.1", "auto", True),
        ("10.0.0.5", "127.0.0.1", "auto", True),
        ("127.0.0.1", "127.0.0.1", "auto", False),
        ("localhost", "127.0.0.1", "auto", False),
        # HAProxy listens there, where serve.py starts Ray itself.
        ("127.0.0.1", "0.0.0.0", "auto", True),
        (None, "127.0.0.1", "auto", False),
        ("0.0.0.0", "127.0.0.1", "off", False),
    ],
)
def test_on_a_cluster_keys_are_required_where_ray_serve_listens_beyond_loopback(
    serve_host: str | None, host: str, keys: str, needed: bool
) -> None:
    resolved = listening_at(serve_host, settings(server={"host": host}, gateway={"keys": keys}))
    assert resolved.keys_required is needed
    if needed:
        with pytest.raises(UsageError, match=r"gateway\.keys-file .*gateway\.keys off"):
            check(resolved)


@pytest.mark.parametrize(("written", "meant"), [("off", "off"), ("on", "on"), ('"off"', "off"), ("auto", "auto")])
def test_a_bare_word_in_yaml_means_what_it_says(written: str, meant: str) -> None:
    assert settings(gateway=parse_yaml(f"keys: {written}", "a profile")).gateway.keys == meant
    if meant == "off":
        assert settings(guard=parse_yaml(f"safe_prompt: {written}", "a profile")).guard.safe_prompt == "off"


def test_a_boolean_stays_one_where_a_boolean_is_asked_for() -> None:
    assert settings(gateway={"open_metrics": False, "keys": "on"}).gateway.open_metrics is False


def test_a_key_file_is_never_silently_ignored() -> None:
    assert required("127.0.0.1", "auto", "keys.yaml")
    assert not required("127.0.0.1", "off", "keys.yaml")


def test_what_needs_no_keys_is_accepted() -> None:
    check(settings())
    check(settings(server={"host": "0.0.0.0"}, gateway={"keys": "off"}))


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ({"server": {"host": "0.0.0.0"}}, ["0.0.0.0", "deploy.keys new", "--gateway.keys-file", "--gateway.keys off"]),
        ({"gateway": {"keys": "on"}}, ["gateway.keys is on", "deploy.keys new"]),
        ({"gateway": {"keys_file": "k"}, "engine": {"api_key": ["secret"]}}, ["api_key", "--gateway.keys off"]),
        ({"gateway": {"keys_file": "k"}, "rehearse": True}, ["rehearsal", "--gateway.keys off"]),
        ({"tracing": {"otlp_endpoint": "collector"}}, ["tracing.otlp_endpoint"]),
        (
            {
                "gateway": {"keys_file": "k"},
                "quotas": {"storage": "redis", "redis_url": "redis://:secret@redis:6379/0"},
            },
            ["quotas.redis_url", "quotas.redis_password_file"],
        ),
    ],
)
def test_what_cannot_work_is_refused_with_the_remedy(groups: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        check(settings(**groups))
    assert [word for word in words if word not in str(refusal.value)] == []
    assert "secret" not in str(refusal.value)


def test_a_replica_without_its_key_file_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        Gateway(settings(gateway={"keys_file": tmp_path / "none.yaml"}))


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (lambda path: {"usage": {"directory": path / "keys.yaml" / "below"}}, ["usage.directory"]),
        (lambda path: {"gateway": {"keys_file": path / "none.yaml"}}, ["none.yaml", "does not exist"]),
        (
            lambda path: {
                "gateway": {"keys_file": path / "keys.yaml"},
                "quotas": {"storage": "redis", "redis_url": "redis://redis:6379/0", "redis_password_file": path / "no"},
            },
            ["quotas.redis_password_file", "cannot be read"],
        ),
    ],
)
def test_files_that_cannot_be_used_are_refused_with_the_remedy(
    key_file: Path, groups: Callable[[Path], dict[str, Any]], words: list[str]
) -> None:
    with pytest.raises(UsageError) as refusal:
        check_files(settings(**groups(key_file.parent)))
    assert [word for word in words if word not in str(refusal.value)] == []


def test_with_keys_the_whole_app_is_behind_them(key_file: Path) -> None:
    upstream = Upstream()
    app = Gateway(settings(gateway={"keys_file": key_file}, log=QUIET)).around(upstream, "demo")
    assert [call(app, scope_of(path)).status for path in ("/v1/models", "/metrics", "/health")] == [401, 403, 200]


def test_without_keys_every_route_is_as_the_app_has_it_but_errors_are_openais() -> None:
    app = Gateway(settings(log=QUIET)).around(Upstream(), "demo")
    assert [call(app, scope_of(path)).status for path in ("/v1/models", "/metrics", "/nowhere")] == [200, 200, 200]
    without = Gateway(settings(log=QUIET)).around(Upstream(404), "demo")
    assert call(without, scope_of("/nowhere")).error["code"] == "not_found"


def test_a_part_of_the_gateway_that_fails_is_an_answer_too() -> None:
    app = Gateway(settings(log=QUIET), None).around(Upstream(fails=RuntimeError("secret")), "demo")
    response = Response()
    with pytest.raises(RuntimeError):
        call(app, scope_of("/v1/models"), response=response)
    assert (response.status, response.error["code"]) == (500, "internal_error")


class TestServePy:
    @pytest.fixture(autouse=True)
    def _small_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        small = Machine(cores=(0, 1), memory_bytes=24 * GIB, free_memory_bytes=20 * GIB, gpus=())
        monkeypatch.setattr(cli, "measure", lambda: small)
        monkeypatch.setattr(cli, "check_engine_installed", lambda: None)
        monkeypatch.setattr(cli, "check_port", lambda host, port: None)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def test_the_network_without_keys_is_refused_before_anything_starts(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert cli.main(["--host", "0.0.0.0"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("serve.py: API keys are required (server.host is 0.0.0.0, gateway.keys is auto)")

    def test_so_it_is_on_a_cluster(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("RAY_ADDRESS", "10.0.0.5:6379")
        assert cli.main(["--host", "0.0.0.0"]) == 2
        assert "API keys are required" in capsys.readouterr().err

    def test_a_missing_key_file_is_named(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        assert cli.main(["--gateway.keys-file", str(tmp_path / "none.yaml")]) == 2
        assert str(tmp_path / "none.yaml") in capsys.readouterr().err

    def test_the_plan_warns_of_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--host", "0.0.0.0", "--dry-run"]) == 0
        assert "it will not start without gateway.keys_file" in " ".join(capsys.readouterr().out.split())

    def test_the_plan_warns_of_keys_that_are_off(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["--host", "0.0.0.0", "--gateway.keys", "off", "--dry-run"]) == 0
        assert "anyone who reaches this port can use the model" in " ".join(capsys.readouterr().out.split())
