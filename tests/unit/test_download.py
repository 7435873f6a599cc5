"""Prevents: a download job that fetches another model than the replicas serve, or fails without saying why."""

from pathlib import Path

import pytest

from deploy import download
from deploy.settings import Settings
from tests.unit.model_files import hf_files, write


def test_a_model_that_is_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main([f'{{"model": "{write(tmp_path, hf_files())}"}}']) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_all_settings_of_a_replica_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[Settings] = []

    def prepare(settings: Settings, progress: object) -> object:
        prepared.append(settings)
        return type("Prepared", (), {"path": Path("/models")})()

    monkeypatch.setattr(download, "prepare", prepare)
    assert download.main(["{model: a/b, cache_dir: /models, scaling: {replicas: null}, gateway: {keys: off}}"]) == 0
    assert (prepared[0].model, str(prepared[0].cache_dir)) == ("a/b", "/models")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "0 arguments given: give the settings as one argument, as JSON or YAML"),
        (["[1]"], "SETTINGS is not a mapping: write settings as KEY: VALUE"),
        (["{modell: demo}"], "unknown argument 'modell': the nearest known one is model"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert download.main(arguments) == 2
    assert capsys.readouterr().err == f"deploy.download: {sentence}\n"
