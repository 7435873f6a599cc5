"""Prevents: usage that is lost with a replica, counted twice, kept from its file by a full disk, or tells any text."""

import logging
import os
import stat
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import UsageError
from deploy.gateway import usage_files, usage_log
from deploy.gateway.observed import Seldom
from deploy.gateway.request import RequestRecord
from deploy.gateway.usage_files import UsageFiles, UsageLine, check_directory
from deploy.gateway.usage_log import UsageLog
from tests.unit.records import RECEIVED_AT, arrived, end, send_marked_requests, served, usage_line

ROOT = Path(__file__).resolve().parents[2]
FILE = "usage-2030-01-31-one.jsonl"
NEVER = 3600.0


@pytest.fixture
def open_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], UsageLog]]:
    """Makes the log of replica ``one`` in the test's directory; it is closed afterwards."""
    monkeypatch.setattr("deploy.gateway.usage_log.CLOSE_S", 600.0)
    logs = []

    def make(progress_s: float) -> UsageLog:
        logs.append(UsageLog(tmp_path, "one", progress_s, "demo"))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


OpenLog = Callable[[float], UsageLog]


def observe(log: UsageLog, record: Any, **fields: Any) -> None:
    """Tell ``log`` of a request twice, as ``RequestScope`` does."""
    ended, record.ended = record.ended, None
    log(record)
    record.ended = ended
    log(end(record, **fields) if ended is None else record)


def lines_of(path: Path) -> list[UsageLine]:
    """The whole lines of a file, which may be written meanwhile."""
    content = path.read_bytes() if path.exists() else b""
    return [UsageLine.model_validate_json(line) for line in content.splitlines(keepends=True) if line.endswith(b"\n")]


def wait_for(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.005)


def test_an_ended_request_is_one_line(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log(NEVER)
    observe(log, served())
    log.close()
    (line,) = lines_of(tmp_path / FILE)
    assert line == UsageLine(
        record="one-1",
        request_id="r-1",
        key="team",
        model="demo",
        route="/v1/chat/completions",
        start=RECEIVED_AT,
        end=RECEIVED_AT + timedelta(seconds=2),
        prompt_tokens=12,
        completion_tokens=64,
        status=200,
        hung_up=False,
        complete=True,
        final=True,
    )
    assert '"start":"2030-01-31T10:00:00.250000Z"' in (tmp_path / FILE).read_text()


def test_an_answer_that_ended_with_an_error_is_not_complete(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log(NEVER)
    observe(log, served(failed=True))
    log.close()
    (line,) = lines_of(tmp_path / FILE)
    assert (line.status, line.complete, line.hung_up) == (200, False, False)


def test_it_is_written_at_once_for_its_owner_only(tmp_path: Path, open_log: OpenLog) -> None:
    observe(open_log(NEVER), served())
    wait_for(lambda: len(lines_of(tmp_path / FILE)) == 1)
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_two_requests_of_one_id_are_two_records(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log(NEVER)
    observe(log, served())
    observe(log, served())
    log.close()
    assert {line.record for line in lines_of(tmp_path / FILE)} == {"one-1", "one-2"}


def test_a_running_request_is_written_with_the_tokens_it_has_so_far(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log(0.01)
    record = arrived(prompt_tokens=5)
    log(record)

    def written() -> bool:
        return record.completion_tokens in [line.completion_tokens for line in lines_of(tmp_path / FILE)]

    for tokens in (1, 2):
        record.completion_tokens = tokens
        wait_for(written)
    log(end(record, completion_tokens=3))
    log.close()
    *running, last = lines_of(tmp_path / FILE)
    assert (last.final, last.completion_tokens, last.status) == (True, 3, 200)
    assert {line.final for line in running} == {False}
    assert {line.record for line in running} == {last.record}


def test_no_line_of_a_request_comes_after_its_last_one(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log(0.0005)
    running = deque[RequestRecord]()
    # Requests come and end while the thread writes down those that run, at least twenty times.
    while not (tmp_path / FILE).exists() or (tmp_path / FILE).read_bytes().count(b'"final":false') < 400:
        for _ in range(100):
            running.append(arrived())
            log(running[-1])
            if len(running) > 20:
                log(end(running.popleft()))
        time.sleep(0.001)
    while running:
        log(end(running.popleft()))
    log.close()
    lines = lines_of(tmp_path / FILE)
    last = {line.record: place for place, line in enumerate(lines)}
    assert [place for place, line in enumerate(lines) if line.final] == sorted(last.values())


def test_all_lines_of_a_request_are_in_the_file_of_the_day_on_which_it_came(tmp_path: Path, open_log: OpenLog) -> None:
    log = open_log(0.01)
    record = arrived(received_at=datetime(2030, 1, 31, 23, 59, 59, tzinfo=UTC))
    log(record)
    wait_for(lambda: bool(lines_of(tmp_path / FILE)))
    log(end(record))
    observe(log, served(received_at=datetime(2030, 2, 1, tzinfo=UTC)))
    log.close()
    assert lines_of(tmp_path / FILE)[-1].end == datetime(2030, 2, 1, 0, 0, 1, tzinfo=UTC)
    assert lines_of(tmp_path / FILE)[-1].final
    assert len(lines_of(tmp_path / "usage-2030-02-01-one.jsonl")) == 1


@pytest.mark.parametrize(
    ("fields", "written"),
    [
        ({"status": 429}, True),
        ({"status": 404, "route": "unknown"}, True),
        ({"key": None, "status": 200}, True),
        ({"key": None, "status": 401}, False),
        ({"key": None, "status": 431}, False),
        ({"key": None, "status": 200, "route": "/health"}, False),
        ({"key": None, "status": 404, "route": "unknown"}, False),
    ],
)
def test_who_has_no_valid_key_cannot_fill_the_disk(
    tmp_path: Path, open_log: OpenLog, fields: dict[str, Any], written: bool
) -> None:
    log = open_log(NEVER)
    observe(log, end(arrived(), **fields))
    log.close()
    assert (tmp_path / FILE).exists() == written


def test_nothing_private_is_in_the_log(tmp_path: Path, open_log: OpenLog) -> None:
    keys = tmp_path / "keys"
    keys.mkdir()
    log = open_log(0.01)
    private = send_marked_requests(log, keys)
    log.close()
    content = b"".join(path.read_bytes() for path in tmp_path.glob("*.jsonl")).decode()
    assert '"final":true' in content
    assert [word for word in private if word in content] == []


KILLED = """
import sys, time
from pathlib import Path
from deploy.gateway.usage_log import UsageLog
from tests.unit.records import arrived, end, served

log = UsageLog(Path(sys.argv[1]), "one", 0.02, "demo")
for record in (arrived(), arrived()):
    log(record)
log(end(record, completion_tokens=7))
running = arrived(prompt_tokens=5)
log(running)
while True:
    running.completion_tokens += 1
    time.sleep(0.001)
"""


def test_the_death_of_the_replica_loses_nothing_that_was_written(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT)
    try:
        wait_for(lambda: max((line.completion_tokens for line in lines_of(tmp_path / FILE)), default=0) > 50)
    finally:
        process.kill()
        process.wait()
    lines = {line.record: line for line in lines_of(tmp_path / FILE)}
    assert {name: line.final for name, line in lines.items()} == {"one-1": False, "one-2": True, "one-3": False}
    assert lines["one-2"].completion_tokens == 7
    assert lines["one-3"].completion_tokens > 50


@pytest.fixture
def full_disk(tmp_path: Path) -> Path:
    """The file of replica ``one``, which takes nothing until it is removed."""
    path = tmp_path / FILE
    path.symlink_to("/dev/full")
    return path


def test_a_full_disk_breaks_nothing_and_gets_the_lines_when_it_has_space(
    full_disk: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    log = open_log(0.01)
    observe(log, served())
    wait_for(lambda: "cannot be written (No space left on device)" in caplog.text)
    observe(log, served(completion_tokens=2))
    full_disk.unlink()
    wait_for(lambda: [line.completion_tokens for line in lines_of(full_disk)] == [64, 2])
    assert len(caplog.records) == 1


def test_a_directory_that_is_gone_breaks_nothing(
    tmp_path: Path, open_log: OpenLog, caplog: pytest.LogCaptureFixture
) -> None:
    log = open_log(NEVER)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    observe(log, served())
    wait_for(lambda: "No such file or directory" in caplog.text)
    moved.rename(tmp_path)
    log.close()
    assert len(lines_of(tmp_path / FILE)) == 1


def test_what_waits_for_a_full_disk_is_bounded_and_the_loss_is_told(
    tmp_path: Path, full_disk: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage_files, "MOST_UNWRITTEN", 1000)
    monkeypatch.setattr(usage_files, "Seldom", lambda: Seldom(period_s=0))
    files = UsageFiles(tmp_path, "one")
    line = usage_line()
    fitting = 1000 // (len(line.model_dump_json()) + 1)
    files.write([line] * 5)
    assert f"{5 - fitting} lines are lost so far" in caplog.text
    full_disk.unlink()
    files.write([])
    assert not files.behind
    assert len(lines_of(full_disk)) == fitting


CUT_OFF = """
import resource, sys
from pathlib import Path
from deploy.gateway.usage_files import UsageFiles
from tests.unit.records import usage_line

files = UsageFiles(Path(sys.argv[1]), "one")
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
files.write([usage_line()] * 5)
size = (Path(sys.argv[1]) / sys.argv[2]).stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
files.write([usage_line()])
print(size)
"""


def test_a_line_that_was_cut_off_is_completed_and_none_is_written_twice(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CUT_OFF, str(tmp_path), FILE], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "700\n"
    content = (tmp_path / FILE).read_bytes().splitlines()
    assert len(content) == 6
    assert len(set(content)) == 1


def test_the_directory_is_made_for_its_owner_only(tmp_path: Path) -> None:
    check_directory(tmp_path / "a" / "b")
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700
    check_directory(tmp_path / "a" / "b")


def test_a_directory_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"usage\.directory .*/file cannot be written to \(File exists\)"):
        check_directory(tmp_path / "file")
    with pytest.raises(UsageError, match="Not a directory"):
        check_directory(tmp_path / "file" / "below")


def test_the_thread_of_a_closed_log_is_gone(open_log: OpenLog) -> None:
    before = set(threading.enumerate())
    log = open_log(NEVER)
    assert len(set(threading.enumerate()) - before) == 1
    log.close()
    assert set(threading.enumerate()) == before


def test_a_disk_that_hangs_delays_no_request_and_costs_bounded_memory(
    tmp_path: Path, open_log: OpenLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(usage_log, "MOST_WAITING", 3)
    # Opening a FIFO for writing waits until somebody reads it.
    os.mkfifo(tmp_path / FILE)
    log = open_log(NEVER)
    for _ in range(10):
        observe(log, served())
    assert "lines of ended requests are lost" in caplog.text
    with (tmp_path / FILE).open("rb") as reader:
        log.close()
        assert 3 <= len(reader.read().splitlines()) <= 6
