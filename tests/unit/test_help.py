"""Prevents a --help that leaves out a setting, or that nobody can read."""

import pytest

from deploy.loading import load
from deploy.schema import schema_of
from deploy.settings import Settings, option


class WithDryRun(Settings):
    dry_run: bool = option(False, "Print the plan and start nothing.", flag="dry-run")


def help_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit) as caught:
        load(argv=["--help"], settings_class=WithDryRun)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_names_every_setting_with_its_description_bounds_and_default(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = " ".join(help_text(capsys, monkeypatch).split())
    for leaf in schema_of(WithDryRun).leaves.values():
        assert f" {leaf.flag}" in words
        bounds = f"{leaf.allowed}; " if leaf.kind in (int, float) else ""
        assert f"{leaf.description} [{bounds}default: {leaf.default}]" in words


def test_help_is_grouped_and_at_most_100_columns_wide(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = help_text(capsys, monkeypatch).splitlines()
    titles = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    groups = [f"{name} options:" for name in schema_of().groups]
    assert titles == ["options:", *groups]
    assert max(map(len, lines)) <= 100


def test_help_shows_the_shortest_flag_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    text = help_text(capsys, monkeypatch)
    assert "  --max-model-len TOKENS " in text
    assert "  --vllm.max-model-len" not in text
    assert "  --enforce-eager, --no-enforce-eager\n" in text
    assert "  --device {auto,cpu,gpu} " in text
    assert "  --engine KEY=VALUE " in text
    assert "usage: serve.py [--model MODEL] [FLAG ...]\n" in text
