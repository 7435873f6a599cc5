"""Prevents a half-built model from being served, and two builds from treading on each other."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.errors import StartError, UsageError
from deploy.model.cache import build_once, compiled_directory, models_directory
from deploy.settings import Settings

# Builds `target` like a slow builder: writes half of it, says so, and writes the rest when it is told to.
_BUILDER = """
import sys
from pathlib import Path
from deploy.model.cache import build_once
def build(work):
    (work / "half").write_text("1")
    print("halfway", flush=True)
    sys.stdin.readline()
    (work / "whole").write_text("1")
def is_complete(path):
    return (path / "whole").is_file()
print(build_once(Path(sys.argv[1]), build, is_complete, lambda line: print(line, flush=True)))
"""


def is_complete(path: Path) -> bool:
    return (path / "whole").is_file()


def build(work: Path) -> None:
    (work / "whole").write_text("1")


def never(work: Path) -> None:
    pytest.fail(f"built {work}")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if not path.name.endswith(".lock"))


def start_builder(target: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _BUILDER, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_what_is_complete_is_not_built_again_and_nothing_is_written(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    build(target)
    assert build_once(target, never, is_complete, pytest.fail) == target
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_built_directory_and_its_files_are_readable_by_everyone(tmp_path: Path) -> None:
    def secretive(work: Path) -> None:
        build(work)
        (work / "whole").chmod(0o600)

    target = build_once(tmp_path / "model", secretive, is_complete, print)
    assert oct(target.stat().st_mode & 0o777) == "0o755"
    assert oct((target / "whole").stat().st_mode & 0o777) == "0o644"


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fails(work: Path) -> None:
        (work / "half").write_text("1")
        raise StartError("no luck")

    with pytest.raises(StartError, match="no luck"):
        build_once(tmp_path / "model", fails, is_complete, print)
    assert names(tmp_path) == []


def test_a_build_killed_halfway_is_not_taken_for_complete_and_the_next_one_tidies_up(tmp_path: Path) -> None:
    target = tmp_path / "model"
    builder = start_builder(target)
    assert line(builder) == "halfway"
    os.kill(builder.pid, signal.SIGKILL)
    builder.communicate()
    left = names(tmp_path)
    assert len(left) == 1
    assert left[0].startswith(".model.")
    assert not target.exists()

    assert build_once(target, build, is_complete, pytest.fail) == target
    assert names(tmp_path) == ["model"]


def test_of_two_builds_the_second_waits_and_uses_the_firsts_work(tmp_path: Path) -> None:
    target = tmp_path / "model"
    first = start_builder(target)
    assert line(first) == "halfway"
    second = start_builder(target)
    assert line(second) == "another process is building model; waiting for it"
    assert first.communicate("go on\n")[0].strip() == str(target)
    # Nobody tells the second to go on: had it built, it would have said "halfway" and waited for ever.
    assert second.communicate(timeout=30)[0].strip() == str(target)
    assert (first.returncode, second.returncode) == (0, 0)


def test_a_damaged_directory_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "half").write_text("1")
    build_once(target, build, is_complete, print)
    assert names(target) == ["whole"]
    assert names(tmp_path) == ["model"]


def test_a_cache_directory_that_is_a_file_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError) as error:
        build_once(tmp_path / "file" / "models" / "model", build, is_complete, print)
    assert str(error.value) == (
        f"cannot write to {tmp_path / 'file' / 'models'} (Not a directory): choose another --cache-dir"
    )


def failing(error: OSError) -> Callable[[Path], None]:
    def build(work: Path) -> None:
        raise error

    return build


def test_a_full_disk_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartError) as error:
        build_once(tmp_path / "model", failing(OSError(28, "No space left on device")), is_complete, print)
    assert str(error.value) == f"no space left in {tmp_path}: free some, or choose another --cache-dir"


def test_an_error_of_another_kind_is_not_explained_away(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output error"):
        build_once(tmp_path / "model", failing(OSError(5, "Input/output error")), is_complete, print)


def test_models_lie_in_the_given_directory_or_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models_directory(Settings()) == tmp_path / "mistral-serve" / "models"
    assert models_directory(Settings(cache_dir=tmp_path / "own")) == tmp_path / "own" / "models"
    assert compiled_directory(Settings()) == tmp_path / "mistral-serve" / "compiled"
