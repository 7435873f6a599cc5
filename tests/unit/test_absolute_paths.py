"""Prevents: a path that means something else in the replica, because that starts in another directory."""

from pathlib import Path
from typing import Any

import pytest

from deploy.absolute_paths import with_absolute_paths
from deploy.settings import Settings


def absolute(**given: Any) -> Settings:
    return with_absolute_paths(Settings.model_validate(given))


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def test_every_file_and_directory_becomes_absolute(tmp_path: Path) -> None:
    settings = absolute(
        cache_dir="cache",
        gateway={"keys_file": "keys.yaml"},
        tls={"certificate_file": "c.pem", "key_file": "k.pem"},
        usage={"directory": "usage"},
        quotas={"redis_password_file": "password"},
        guard={"moderation_key_file": "key"},
    )
    assert settings.cache_dir == tmp_path / "cache"
    assert settings.gateway.keys_file == tmp_path / "keys.yaml"
    assert (settings.tls.certificate_file, settings.tls.key_file) == (tmp_path / "c.pem", tmp_path / "k.pem")
    assert (settings.usage.directory, settings.quotas.redis_password_file) == (
        tmp_path / "usage",
        tmp_path / "password",
    )
    assert settings.guard.moderation_key_file == tmp_path / "key"


def test_a_model_s_directory_becomes_absolute_and_keeps_its_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert absolute(model="./link").model == str(tmp_path / "link")
    assert absolute(model="link").model == str(tmp_path / "link")


def test_a_home_directory_is_written_out(tmp_path: Path) -> None:
    assert absolute(model="~/model").model == str(tmp_path / "home" / "model")
    assert absolute(gateway={"keys_file": "~/keys"}).gateway.keys_file == tmp_path / "home" / "keys"


@pytest.mark.parametrize("model", ["demo", "mistralai/Mistral-7B-v0.1"])
def test_a_name_stays_a_name(model: str) -> None:
    assert absolute(model=model).model == model


def test_demo_stays_the_demo_model_beside_a_directory_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "demo").mkdir()
    assert absolute(model="demo").model == "demo"


def test_a_template_s_file_becomes_absolute_and_a_shipped_name_stays(tmp_path: Path) -> None:
    assert absolute(vllm={"chat_template": "my.jinja"}).vllm.chat_template == str(tmp_path / "my.jinja")
    assert absolute(vllm={"chat_template": "base"}).vllm.chat_template == "base"


def test_settings_without_paths_stay_as_they_are() -> None:
    assert absolute() == Settings()
