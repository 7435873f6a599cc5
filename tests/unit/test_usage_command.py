"""Prevents: a report that counts a request twice or not at all, or that needs memory for the whole log."""

import csv
import io
import json
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy import usage
from deploy.usage import VARIABLE, UsageFile
from tests.unit.records import RECEIVED_AT, usage_line

FIELDS = ["requests", "prompt_tokens", "completion_tokens", "errors", "rejections", "hang_ups", "unfinished"]


class Log:
    """A directory of usage files that a test writes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._records = 0

    def path(self, day: str = "2030-01-31", replica: str = "one") -> Path:
        return self.directory / f"usage-{day}-{replica}.jsonl"

    def add(self, *versions: dict[str, Any], replica: str = "one", **fields: Any) -> None:
        """One request: a line for each of ``versions``, all with ``fields``."""
        self._records += 1
        for version in versions or ({},):
            line = usage_line(f"{replica}-{self._records}", **fields | version)
            with self.path(line.start.date().isoformat(), replica).open("a") as file:
                file.write(line.model_dump_json() + "\n")


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


class Command:
    """Runs ``python -m deploy.usage report`` on the log."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._directory, self._capsys = directory, capsys
        self.stderr = ""

    def text(self, *flags: str) -> str:
        assert usage.main(["report", *flags, "--directory", str(self._directory)]) == 0
        captured = self._capsys.readouterr()
        self.stderr = captured.err
        return captured.out

    def rows(self, *flags: str) -> list[dict[str, Any]]:
        return list(json.loads(self.text(*flags, "--format", "json")))

    def all(self, *flags: str) -> dict[str, int]:
        (row,) = self.rows(*flags)
        return {name: row[name] for name in FIELDS if row[name]}

    def mistake(self, *arguments: str) -> str:
        assert usage.main(["report", *arguments]) == 2
        captured = self._capsys.readouterr()
        assert captured.out == ""
        (line,) = captured.err.strip().splitlines()
        return line


@pytest.fixture
def report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(tmp_path, capsys)


def test_requests_and_tokens_add_up_for_each_key(log: Log, report: Command) -> None:
    log.add(key="a")
    log.add(key="b", prompt_tokens=100)
    log.add(key="a", completion_tokens=50, replica="two")
    assert [(row["key"], *(row[name] for name in FIELDS)) for row in report.rows("--by", "key")] == [
        ("a", 2, 20, 55, 0, 0, 0, 0),
        ("b", 1, 100, 5, 0, 0, 0, 0),
    ]
    assert report.rows() == report.rows("--by", "key")


def test_only_the_last_line_of_a_request_counts(log: Log, report: Command) -> None:
    running = {"final": False, "complete": False, "status": 200}
    log.add({"completion_tokens": 1, **running}, {"completion_tokens": 2, **running}, {"completion_tokens": 9})
    log.add({"completion_tokens": 20, **running}, {"completion_tokens": 30, **running})
    assert report.all() == {"requests": 2, "prompt_tokens": 20, "completion_tokens": 39, "unfinished": 1}


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ({"status": 200}, None),
        ({"status": 400}, "errors"),
        ({"status": 404}, "errors"),
        ({"status": 503}, "errors"),
        ({"status": 200, "complete": False}, "errors"),
        ({"status": 0, "complete": False}, "errors"),
        ({"status": 401}, "rejections"),
        ({"status": 403}, "rejections"),
        ({"status": 429}, "rejections"),
        ({"status": 200, "complete": False, "hung_up": True}, "hang_ups"),
        ({"status": 0, "complete": False, "final": False}, "unfinished"),
    ],
)
def test_what_went_wrong_is_counted_once(log: Log, report: Command, fields: dict[str, Any], column: str | None) -> None:
    log.add(**fields)
    expected = {"requests": 1, "prompt_tokens": 10, "completion_tokens": 5}
    assert report.all() == expected | ({} if column is None else {column: 1})


def test_a_request_counts_for_the_day_on_which_it_came(log: Log, report: Command) -> None:
    log.add(key="a")
    log.add(key="a", start=RECEIVED_AT + timedelta(days=1))
    log.add(key="b", start=RECEIVED_AT + timedelta(days=1))
    rows = report.rows("--by", "key", "--day")
    assert [(row["key"], row["day"], row["requests"]) for row in rows] == [
        ("a", "2030-01-31", 1),
        ("a", "2030-02-01", 1),
        ("b", "2030-02-01", 1),
    ]
    assert [(row["day"], row["requests"]) for row in report.rows("--day")] == [("2030-01-31", 1), ("2030-02-01", 2)]
    assert report.rows("--by", "key", "--by", "day") == rows


@pytest.mark.parametrize(
    ("flags", "days"),
    [
        ([], [30, 31, 1]),
        (["--since", "2030-01-31"], [31, 1]),
        (["--until", "2030-01-31"], [30, 31]),
        (["--since", "2030-01-31", "--until", "2030-01-31"], [31]),
        (["--since", "2030-02-02"], []),
    ],
)
def test_since_and_until_are_included(log: Log, report: Command, flags: list[str], days: list[int]) -> None:
    for offset in (-1, 0, 1):
        log.add(start=RECEIVED_AT + timedelta(days=offset))
    assert [int(row["day"][-2:]) for row in report.rows("--day", *flags)] == days


def test_models_and_routes_can_be_told_apart(log: Log, report: Command) -> None:
    log.add(model="demo", route="/tokenize")
    log.add(model="other")
    rows = report.rows("--by", "route", "--by", "model")
    assert [(row["route"], row["model"]) for row in rows] == [("/tokenize", "demo"), ("/v1/completions", "other")]


def test_the_table_is_aligned_and_ends_with_the_total(log: Log, report: Command) -> None:
    log.add(key="", prompt_tokens=123456)
    log.add(key="team-with-a-long-name")
    lines = report.text("--by", "key", "--day").splitlines()
    assert [line.split() for line in lines] == [
        ["KEY", "DAY", *" ".join(FIELDS).replace("_", " ").upper().split()],
        ["-", "2030-01-31", "1", "123456", "5", "0", "0", "0", "0"],
        ["team-with-a-long-name", "2030-01-31", "1", "10", "5", "0", "0", "0", "0"],
        ["total", "2", "123466", "10", "0", "0", "0", "0"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_csv_has_one_header_and_one_line_for_each_group(log: Log, report: Command) -> None:
    log.add(key='a"b,c')
    (row,) = csv.DictReader(io.StringIO(report.text("--format", "csv")))
    assert row == {"key": 'a"b,c', **dict.fromkeys(FIELDS, "0"), "requests": "1", "prompt_tokens": "10"} | {
        "completion_tokens": "5"
    }


def test_an_empty_log_is_an_empty_report(report: Command) -> None:
    assert report.rows() == []
    assert report.text().splitlines()[-1].split() == ["total", *["0"] * len(FIELDS)]


def test_a_last_line_that_is_cut_off_is_left_out_silently(log: Log, report: Command) -> None:
    log.add()
    with log.path().open("a") as file:
        file.write(usage_line("one-2").model_dump_json()[:-1])
    assert report.all()["requests"] == 1
    assert report.stderr == ""


@pytest.mark.parametrize("damage", [b"{}\n", b"\xff\xfe\n", b"\n", b"x" * 100_000 + b"\n", b'{"record": 1}\n'])
def test_a_damaged_line_is_left_out_and_said_so(log: Log, report: Command, damage: bytes) -> None:
    log.add()
    with log.path().open("ab") as file:
        file.write(damage)
    log.add()
    assert report.all()["requests"] == 2
    assert report.stderr == "deploy.usage: 1 damaged lines were left out\n"


def test_other_files_are_not_read(log: Log, report: Command) -> None:
    log.add()
    for name in ("usage-2030-01-31-one.jsonl.bak", "notes.jsonl", "usage-x-one.jsonl"):
        (log.directory / name).write_bytes(log.path().read_bytes())
    (log.directory / "usage").mkdir()
    assert report.all()["requests"] == 1
    assert report.stderr == ""


def test_a_line_of_a_later_version_may_hold_more(log: Log, report: Command) -> None:
    more = json.loads(usage_line("one-1").model_dump_json()) | {"cached_tokens": 3}
    log.path().write_text(json.dumps(more) + "\n")
    assert report.all()["requests"] == 1


def test_memory_does_not_grow_with_the_file(log: Log) -> None:
    running = usage_line("one-0", final=False).model_dump_json() + "\n"
    with log.path().open("w") as file:
        for number in range(5000):
            file.write(running.replace("one-0", f"one-{number}"))
            file.write(usage_line(f"one-{number}").model_dump_json() + "\n")
    tracemalloc.start()
    try:
        count = sum(1 for _ in UsageFile(log.path()).last_lines())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 5000
    assert peak < 1_000_000 < log.path().stat().st_size


def test_the_directory_may_come_from_the_server_s_own_variable(
    log: Log, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log.add()
    monkeypatch.setenv(VARIABLE, str(log.directory))
    assert usage.main(["report", "--by", "key", "--day"]) == 0
    assert "team" in capsys.readouterr().out
    assert VARIABLE == "MISTRAL_SERVE_USAGE__DIRECTORY"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--since", "yesterday"], ["--since", "'yesterday'", "2030-01-31"]),
        (["--until", "2030-13-01"], ["--until", "'2030-13-01'"]),
        (["--since", "2030-02-01", "--until", "2030-01-31"], ["2030-02-01", "2030-01-31", "earlier"]),
    ],
)
def test_a_wrong_day_is_one_sentence(tmp_path: Path, report: Command, flags: list[str], words: list[str]) -> None:
    sentence = report.mistake(*flags, "--directory", str(tmp_path))
    assert [word for word in words if word not in sentence] == []


def test_a_directory_must_be_given_and_be_there(tmp_path: Path, report: Command) -> None:
    assert VARIABLE in report.mistake()
    assert "/none is no directory" in report.mistake("--directory", str(tmp_path / "none"))


def test_a_file_that_cannot_be_read_is_named(log: Log, report: Command) -> None:
    log.path().mkdir()
    assert f"{log.path()} cannot be read" in report.mistake("--directory", str(log.directory))


@pytest.mark.parametrize("arguments", [["report", "--by", "user"], [], ["report", "--format", "xml"]])
def test_an_unknown_word_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        usage.main(arguments)
    assert caught.value.code == 2
    assert "usage: python -m deploy.usage" in capsys.readouterr().err
