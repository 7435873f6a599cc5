"""Prevents: a verb that cannot be imported, a mistyped flag that is ignored, and a mistake that ends in a traceback."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest import __main__ as command
from loadtest._errors import LoadTestError

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("verb", sorted(command.VERBS))
def test_every_verb_has_a_help_of_its_own(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main([verb, "--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith(f"usage: python -m loadtest {verb} ")
    assert ("Every further argument goes to locust." in text) is command.VERBS[verb].passes_on


def test_the_help_lists_every_verb_without_importing_what_they_need() -> None:
    program = (
        "import sys, loadtest.__main__ as command\n"
        "try: command.main(['--help'])\n"
        "except SystemExit: print(sorted({'numpy', 'gevent', 'locust', 'plotly'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert [verb for verb in command.VERBS if f"\n    {verb} " not in done.stdout] == []


@pytest.mark.parametrize(
    ("words", "mistake"),
    [
        ([], "the following arguments are required: VERB"),
        (["sweeep"], "invalid choice: 'sweeep'"),
        (["plan", "--rate", "1", "--sustainable", "1", "--spares", "1"], "unrecognized arguments: --spares 1"),
        (["plan", "--rate", "1", "--sustain", "1"], "one of the arguments --report --sustainable is required"),
        (["plan", "--rate", "x", "--sustainable", "1"], "argument --rate: invalid float value: 'x'"),
    ],
)
def test_a_mistyped_command_is_a_usage_error(
    words: list[str], mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(words)
    assert ended.value.code == 2
    assert mistake in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [(LoadTestError("a sentence"), 2, "loadtest plan: a sentence\n"), (KeyboardInterrupt(), 130, "")],
)
def test_what_a_verb_raises_becomes_an_exit_code(
    error: BaseException,
    code: int,
    text: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(_: object) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("loadtest._capacity"), "run", run)
    assert command.main(["plan", "--rate", "1", "--sustainable", "1"]) == code
    assert capsys.readouterr().err == text
