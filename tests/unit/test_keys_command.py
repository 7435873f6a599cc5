"""Prevents: a key kept in clear or printed twice, a key file that others read, a key lost by two commands at once."""

import json
import stat
import threading
from pathlib import Path

import pytest
import yaml

from deploy import keys
from deploy.gateway.key_file import KeyFile, new_token, read


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def run(*arguments: str, file: Path) -> int:
    return keys.main([*arguments, "--file", str(file)])


def make(capsys: pytest.CaptureFixture[str], file: Path, *arguments: str) -> str:
    """A new key, as it is printed."""
    assert run("new", *arguments, file=file) == 0
    return capsys.readouterr().out.strip()


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str, file: Path) -> str:
    assert run(*arguments, file=file) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.strip().splitlines()
    return line


def test_a_new_key_is_all_of_stdout_and_opens_its_entry(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    assert run("new", "--name", "team", file=file) == 0
    captured = capsys.readouterr()
    token = captured.out.removesuffix("\n")
    (key,) = read(file).keys
    assert key.opens(token.encode())
    assert (key.name, key.prefix, key.models, key.expires, key.disabled) == ("team", token[:11], None, None, False)
    assert captured.err == f"added {token[:11]} to {file}; team has 1 key\n"


def test_a_key_has_256_random_bits_after_its_prefix() -> None:
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert {len(token) for token in tokens} == {len("ms-00000000-") + 43}


def test_the_file_holds_neither_the_key_nor_its_secret_part(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    token = make(capsys, file, "--name", "team")
    assert token not in file.read_text()
    assert token[12:] not in file.read_text()


def test_only_the_owner_reads_the_file_even_if_others_could_before(
    capsys: pytest.CaptureFixture[str], file: Path
) -> None:
    make(capsys, file, "--name", "a")
    file.chmod(0o644)
    make(capsys, file, "--name", "b")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["keys.yaml"]


def test_models_and_expiry_are_kept(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    make(capsys, file, "--name", "a", "--models", "demo", "other", "--expires", "2999-01-31T12:00:00+09:00")
    (key,) = read(file).keys
    assert key.models == ("demo", "other")
    assert key.expires is not None
    assert key.expires.isoformat() == "2999-01-31T12:00:00+09:00"


def test_quotas_priority_and_guard_are_kept(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    limits = ["--requests-per-minute", "60", "--tokens-per-minute", "1000000000000000"]
    make(capsys, file, "--name", "a", *limits, "--priority", "high", "--guard")
    (key,) = read(file).keys
    assert (key.requests_per_minute, key.tokens_per_minute) == (60, 10**15)
    assert (key.priority, key.guard) == ("high", True)


def test_without_flags_a_key_has_no_quota_of_its_own(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    make(capsys, file, "--name", "a")
    (key,) = read(file).keys
    assert (key.requests_per_minute, key.tokens_per_minute, key.priority, key.guard) == (None, None, "normal", False)
    assert set(yaml.safe_load(file.read_text())["keys"][0]) == {"name", "prefix", "hash"}


def test_a_json_file_stays_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    make(capsys, file, "--name", "a", "--expires", "2999-01-31T12:00:00Z")
    make(capsys, file, "--name", "b")
    assert [entry["name"] for entry in json.loads(file.read_text())["keys"]] == ["a", "b"]


def test_a_link_to_the_file_stays_a_link(capsys: pytest.CaptureFixture[str], file: Path, tmp_path: Path) -> None:
    make(capsys, file, "--name", "a")
    link = tmp_path / "link.yaml"
    link.symlink_to(file)
    make(capsys, link, "--name", "b")
    assert link.is_symlink()
    assert [key.name for key in read(file).keys] == ["a", "b"]


def test_a_name_may_have_two_keys_and_each_can_be_ended_alone(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    old, new = make(capsys, file, "--name", "team"), make(capsys, file, "--name", "team")
    make(capsys, file, "--name", "other")
    assert run("disable", old[:11], file=file) == 0
    assert [key.disabled for key in read(file).keys] == [True, False, False]
    assert run("remove", "team", file=file) == 0
    assert [key.name for key in read(file).keys] == ["other"]
    assert new != old


def test_list_shows_everything_but_hashes(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    a = make(capsys, file, "--name", "a", "--models", "demo", "--requests-per-minute", "60", "--guard")[:11]
    b = make(capsys, file, "--name", "b", "--expires", "2999-01-31T12:00:00Z", "--priority", "low")[:11]
    run("disable", "a", file=file)
    assert run("list", file=file) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["PREFIX", "NAME", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "PRIORITY", "GUARD", "EXPIRES", "STATE"],
        [a, "a", "demo", "60", "default", "normal", "always", "never", "disabled"],
        [b, "b", "all", "default", "default", "low", "default", "2999-01-31T12:00:00+00:00", "valid"],
    ]


def test_two_commands_at_once_lose_no_key(file: Path) -> None:
    threads = [threading.Thread(target=run, args=("new", "--name", f"t{n}"), kwargs={"file": file}) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(key.name for key in read(file).keys) == [f"t{n}" for n in range(8)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["list"], ["does not exist", "keys.yaml", "deploy.keys new"]),
        (["disable", "a"], ["does not exist"]),
        (["new", "--name", "a b"], ["--name", "'a b'"]),
        (["new", "--name", ""], ["--name"]),
        (["new", "--name", "a", "--expires", "2999-01-31"], ["--expires", "2999-01-31", "zone"]),
        (["new", "--name", "a", "--expires", "2999-01-31T00:00:00"], ["--expires", "zone"]),
        (["new", "--name", "a", "--expires", "2001-01-31T00:00:00Z"], ["--expires", "time to come"]),
        (["new", "--name", "a", "--expires", "soon"], ["--expires", "'soon'"]),
        (["new", "--name", "a", "--models", ""], ["--models"]),
        (["new", "--name", "a", "--requests-per-minute", "0"], ["--requests-per-minute", "'0'", "whole number from 1"]),
        (["new", "--name", "a", "--requests-per-minute", "1.5"], ["--requests-per-minute", "'1.5'"]),
        (["new", "--name", "a", "--requests-per-minute=-1"], ["--requests-per-minute", "'-1'"]),
        (["new", "--name", "a", "--tokens-per-minute", "many"], ["--tokens-per-minute", "'many'", "whole number"]),
        (["new", "--name", "a", "--tokens-per-minute", ""], ["--tokens-per-minute", "''"]),
        (["new", "--name", "a", "--tokens-per-minute", "9" * 5000], ["--tokens-per-minute", "whole number"]),
        (["new", "--name", "a", "--priority", "urgent"], ["--priority", "'urgent'", "low, normal or high"]),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], file: Path, arguments: list[str], words: list[str]
) -> None:
    sentence = mistake(capsys, *arguments, file=file)
    assert [word for word in words if word not in sentence] == []
    assert not file.exists()


def test_a_key_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    make(capsys, file, "--name", "a")
    assert "'b'" in mistake(capsys, "remove", "b", file=file)


def test_a_directory_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "No such file" in mistake(capsys, "new", "--name", "a", file=tmp_path / "none" / "keys.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["mapping", "keys"]),
        ("- a", ["mapping", "keys"]),
        ("keys: 1", ["mapping", "keys"]),
        ("keys: [", ["line 1", "malformed"]),
        ("keys: [1]", ["mapping", "keys"]),
        ("kees: []", ["mapping", "keys"]),
        ("keys: [{name: a}]", ["`prefix` of entry 1"]),
        ("keys: [ENTRY, {name: a, prefix: ms-0000000g, hash: HASH}]", ["`prefix` of entry 2"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: short}]", ["`hash` of entry 1"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: HASH, expires: 2030-01-31}]", ["`expires`", "zone"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: HASH, expires: 2030-01-31T00:00:00}]", ["`expires`", "zone"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: HASH, models: []}]", ["`models`", "list"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: HASH, models: demo}]", ["`models`", "list"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: HASH, disabled: 1}]", ["`disabled`", "true or false"]),
        ("keys: [{name: a, prefix: ms-00000000, hash: HASH, quota: 1}]", ["not known", "expires"]),
        ("keys: [ENTRY, ENTRY]", ["ms-00000000", "twice"]),
    ],
)
def test_a_wrong_file_is_named_with_the_place_and_what_belongs_there(
    capsys: pytest.CaptureFixture[str], file: Path, content: str, words: list[str]
) -> None:
    written = content.replace("ENTRY", "{name: a, prefix: ms-00000000, hash: HASH}").replace("HASH", "ab" * 32)
    file.write_text(written)
    sentence = mistake(capsys, "list", file=file)
    assert [word for word in [str(file), *words] if word not in sentence] == []
    assert file.read_text() == written


def test_a_date_that_yaml_reads_as_one_is_taken(file: Path) -> None:
    file.write_text(f"keys: [{{name: a, prefix: ms-00000000, hash: {'ab' * 32}, expires: 2030-01-31T00:00:00Z}}]")
    assert isinstance(read(file), KeyFile)
