"""Prevents an engine that dies of its first sampled request where torch cannot compile."""

import os
from pathlib import Path

import pytest

from deploy.compiler import can_compile, do_without


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder with a compiler and Python's headers in it."""
    (tmp_path / "c++").write_text("#!/bin/sh\n")
    (tmp_path / "c++").chmod(0o755)
    (tmp_path / "Python.h").touch()
    return tmp_path


def test_a_compiler_and_the_headers_are_enough(installed: Path) -> None:
    assert can_compile(str(installed / "c++"), installed)


def test_the_compiler_is_the_one_that_the_environment_names(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(installed / "c++"))
    assert can_compile(headers=installed)
    monkeypatch.setenv("CXX", str(installed / "missing"))
    assert not can_compile(headers=installed)


def test_without_a_path_to_gnus_compiler_there_is_none(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(installed))
    assert not can_compile(headers=installed)


def test_headers_are_needed_too(installed: Path) -> None:
    (installed / "Python.h").unlink()
    assert not can_compile(str(installed / "c++"), installed)


def test_doing_without_is_what_torch_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCH_COMPILE_DISABLE", raising=False)
    do_without()
    assert os.environ.pop("TORCH_COMPILE_DISABLE") == "1"
