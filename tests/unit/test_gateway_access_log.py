"""Prevents: an access log that tells text or keys, that mixes or forges lines, or that a slow reader slows down."""

import io
import json
import os
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from deploy import access_fifo
from deploy.access_fifo import reader
from deploy.gateway.access_log import AccessLog
from deploy.gateway.log_sink import FIFO_VARIABLE, LONGEST_LINE, FifoSink, sink_from_environment, to_stderr
from deploy.settings import LogSettings
from tests.unit.records import RECEIVED, arrived, end, key, send_marked_requests, served

JSON = LogSettings(format="json", level="debug")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_fifo, "PATIENCE_S", 60.0)


class Lines(list[str]):
    """A sink that keeps its lines, and refuses them while it is told to."""

    full = False

    def __call__(self, line: str) -> bool:
        if not self.full:
            self.append(line)
        return not self.full


def fields_of(record: Any, settings: LogSettings = JSON) -> dict[str, Any]:
    lines = Lines()
    AccessLog(lines, settings, "demo")(record)
    (line,) = lines
    return dict(json.loads(line))


def test_a_line_tells_the_whole_request() -> None:
    assert fields_of(served()) == {
        "time": "2030-01-31T10:00:02.250Z",
        "level": "info",
        "request_id": "r-1",
        "key": "team",
        "model": "demo",
        "method": "POST",
        "route": "/v1/chat/completions",
        "status": 200,
        "prompt_tokens": 12,
        "completion_tokens": 64,
        "duration_ms": 2000.0,
        "gateway_ms": 10.0,
        "queue_ms": 20.0,
        "prefill_ms": 70.0,
        "decode_ms": 1900.0,
        "hung_up": False,
    }


def test_a_refused_request_has_no_stages_no_model_and_no_key() -> None:
    fields = fields_of(end(arrived(key=None, body=None), status=401))
    assert (fields["key"], fields["model"], fields["status"], fields["level"]) == ("", "", 401, "warning")
    assert [fields[f"{stage}_ms"] for stage in ("gateway", "queue", "prefill", "decode")] == [None] * 4


def test_only_ended_requests_have_a_line() -> None:
    lines = Lines()
    AccessLog(lines, JSON, "demo")(arrived())
    assert lines == []


@pytest.mark.parametrize(
    ("asked", "written"),
    [
        ("demo", "demo"),
        (None, "demo"),
        ("listed", "listed"),
        ("other\nline", "unknown"),
        ({"a": 1}, "unknown"),
        ("l" * 200, "l" * 128),
        ("two\nlines\x1b[2J", "two?lines?[2J"),
    ],
)
def test_a_model_is_named_only_if_the_operator_knows_it(asked: Any, written: str) -> None:
    allowed = key(models=("listed", "l" * 200, "two\nlines\x1b[2J"))
    assert fields_of(served(body={"model": asked}, key=allowed))["model"] == written


def test_a_method_that_http_does_not_know_is_not_written() -> None:
    assert fields_of(served(method="MY\x1bSECRET"))["method"] == "_OTHER"


@pytest.mark.parametrize(
    ("record", "level"),
    [
        (served(), "info"),
        (served(hung_up=True, complete=False), "info"),
        (served(complete=False), "error"),
        (served(failed=True), "error"),
        (end(arrived(), status=429), "warning"),
        (end(arrived(), status=503), "error"),
        (end(arrived(route="/health")), "debug"),
        (end(arrived(route="/health"), status=503), "error"),
    ],
)
def test_lines_below_the_level_are_not_written(record: Any, level: str) -> None:
    for least in ("debug", "info", "warning", "error"):
        lines = Lines()
        AccessLog(lines, LogSettings.model_validate({"format": "json", "level": least}), "demo")(record)
        severities = ["debug", "info", "warning", "error"]
        assert len(lines) == (severities.index(level) >= severities.index(least))
    assert fields_of(record)["level"] == level


def test_the_console_has_the_same_in_columns() -> None:
    lines = Lines()
    log = AccessLog(lines, LogSettings(format="console"), "demo")
    log(served())
    log(end(arrived(id="x" * 128, route="/v1/models", method="GET", key=None, body=None), status=404, hung_up=True))
    assert " ".join(lines[0].split()) == (
        "2030-01-31T10:00:02.250Z access INFO 200 POST /v1/chat/completions 12+64 2000.0 ms gateway 10.0 queue 20.0"
        " prefill 70.0 decode 1900.0 key=team model=demo id=r-1"
    )
    assert lines[1].endswith(f"key=- model=- id={'x' * 128} hung up")
    assert [line.index("key=") for line in lines] == [lines[0].index("key=")] * 2


@pytest.mark.parametrize("style", ["json", "console"])
def test_lost_lines_are_counted_before_the_next_one(style: str) -> None:
    lines = Lines()
    log = AccessLog(lines, LogSettings.model_validate({"format": style}), "demo")
    lines.full = True
    for _ in range(3):
        log(served())
    lines.full = False
    log(served())
    log(served())
    assert len(lines) == 3
    if style == "json":
        assert json.loads(lines[0]) == {"time": "2030-01-31T10:00:02.250Z", "level": "warning", "lines_lost": 3}
    else:
        assert "WARNING 3 lines were lost" in lines[0]


@pytest.mark.parametrize("style", ["json", "console"])
def test_nothing_private_is_in_a_line(style: str, tmp_path: Path) -> None:
    lines = Lines()
    private = send_marked_requests(AccessLog(lines, LogSettings.model_validate({"format": style}), "demo"), tmp_path)
    assert len(lines) == 4
    assert [word for word in private if word in "".join(lines)] == []
    assert not any(line != line.strip() or not line.isprintable() for line in lines)


def test_the_longest_line_fits_into_one_write() -> None:
    lines = Lines()
    longest = key("k" * 64, models=("\U0001f600" * 256,))
    record = served(id="x" * 128, key=longest, body={"model": "\U0001f600" * 256}, received=RECEIVED - 1e9)
    AccessLog(lines, JSON, "demo")(record)
    assert len(lines[0]) < LONGEST_LINE


def read_all(path: Path, *, write: Any) -> bytes:
    """What comes out of the FIFO while ``write`` runs."""
    output = io.BytesIO()
    with reader(path, output.write):
        write()
    return output.getvalue()


def test_the_fifo_is_private_and_gone_afterwards_with_its_thread(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    before = threading.active_count()
    with reader(path, io.BytesIO().write):
        assert stat.S_ISFIFO(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()
    assert threading.active_count() == before


def test_what_is_written_just_before_the_end_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    for _ in range(20):
        assert read_all(path, write=lambda: FifoSink(str(path))("last words")) == b"last words\n"


def test_a_line_that_is_read_in_pieces_comes_out_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_fifo, "READ_BYTES", 7)
    path = tmp_path / "fifo"
    pieces: list[bytes] = []
    with reader(path, pieces.append):
        FifoSink(str(path))("a line longer than that")
    assert b"".join(pieces) == b"a line longer than that\n"


def test_lines_of_several_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    accepted: list[str] = []

    def write(letter: str) -> None:
        sink = FifoSink(str(path))
        for number in range(300):
            line = letter * (3000 + number)
            if sink(line):
                accepted.append(line)
        sink.close()

    def write_at_once() -> None:
        threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    lines = read_all(path, write=write_at_once).decode().splitlines()
    assert sorted(lines) == sorted(accepted)
    assert len(lines) >= 4


def test_a_full_fifo_refuses_lines_instead_of_waiting(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    sink = FifoSink(str(path))
    written = 0
    while sink("x" * 1000):
        written += 1
    assert written > 10
    os.read(descriptor, 1 << 20)
    assert sink("again")
    assert os.read(descriptor, 100) == b"again\n"
    os.close(descriptor)
    assert not sink("nobody reads")
    assert not sink("nobody reads")
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    assert sink("somebody reads")
    sink.close()
    os.close(descriptor)


def test_a_fifo_that_is_not_there_refuses_lines(tmp_path: Path) -> None:
    assert not FifoSink(str(tmp_path / "none"))("line")


def test_a_line_that_is_too_long_is_cut_and_still_ends(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    content = read_all(path, write=lambda: FifoSink(str(path))("é" * LONGEST_LINE))
    assert len(content) == LONGEST_LINE
    assert content.endswith(b"\n")


def test_an_output_that_fails_does_not_fill_the_fifo(tmp_path: Path) -> None:
    path = tmp_path / "fifo"

    def fail(lines: bytes) -> None:
        raise BrokenPipeError

    with reader(path, fail):
        sink = FifoSink(str(path))
        accepted = 0
        # Far more than a FIFO holds; hangs here if nobody empties it.
        while accepted < 500:
            accepted += sink("x" * 1000)
        sink.close()


def test_without_an_output_the_lines_go_to_stderr(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    path = tmp_path / "fifo"
    with reader(path):
        assert FifoSink(str(path))("a line")
    assert capfdbinary.readouterr().err == b"a line\n"


def test_the_environment_names_the_fifo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(FIFO_VARIABLE, raising=False)
    assert sink_from_environment()("to stderr")
    assert capsys.readouterr().err == "to stderr\n"
    path = tmp_path / "fifo"
    monkeypatch.setenv(FIFO_VARIABLE, str(path))
    assert read_all(path, write=lambda: sink_from_environment()("to the fifo")) == b"to the fifo\n"


def test_a_closed_stderr_refuses_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    assert not to_stderr("line")
