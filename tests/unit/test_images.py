"""Prevents images that name other versions than the project does, or whose build lacks a file."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = sorted((ROOT / "docker").glob("Dockerfile.*"))
each = pytest.mark.parametrize("file", DOCKERFILES, ids=lambda file: file.name)


def found(pattern: str, file: Path) -> list[str]:
    return re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE)


def test_there_is_one_for_each_kind_of_machine() -> None:
    assert [file.suffix for file in DOCKERFILES] == [".cpu", ".gpu"]


def test_the_gpu_image_is_built_on_the_pinned_ray() -> None:
    (base,) = found(r"^ARG BASE=\S+ray-llm:([\d.]+)-", ROOT / "docker" / "Dockerfile.gpu")
    assert found(r"^ray==(.+)$", ROOT / "requirements" / "gpu.txt") == [base]


@each
def test_an_image_bears_the_version_of_the_project(file: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert found(r"^ARG VERSION=(.+)$", file) == [project["version"]]


@each
def test_an_image_ends_as_the_user_that_the_chart_runs(file: Path) -> None:
    assert found(r"^USER (.+)$", file)[-1] == "1000:1000"


@each
def test_everything_that_is_copied_is_in_the_repository_and_sent_to_the_build(file: Path) -> None:
    sent = set(found(r"^!(.+)$", ROOT / ".dockerignore"))
    copied = [source for sources in found(r"^COPY (?!--from)(.+) \S+$", file) for source in sources.split()]
    assert copied
    assert [source for source in copied if not (ROOT / source).exists() or source.split("/")[0] not in sent] == []


@each
def test_an_image_has_a_health_check(file: Path) -> None:
    assert len(found(r"^HEALTHCHECK .*CMD .*/health", file)) == 1


@each
def test_packages_come_from_the_pinned_sets_alone(file: Path) -> None:
    steps = file.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    installs = [step for step in steps if "pip install" in step]
    assert installs
    assert [line for line in installs if "--no-deps" not in line or " -r " not in line] == []


@each
def test_no_base_is_whatever_is_newest(file: Path) -> None:
    bases = found(r"^ARG BASE=(.+)$", file)
    assert len(bases) == 1
    assert re.fullmatch(r"\S+:\S*\d\S*", bases[0])
