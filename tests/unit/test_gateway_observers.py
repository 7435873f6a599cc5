"""Prevents: a request that breaks because it could not be written down, and an observer that nobody asked for."""

import asyncio
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from deploy.errors import UsageError
from deploy.gateway.log_sink import FIFO_VARIABLE
from deploy.gateway.observed import BATCH_S, Seldom
from deploy.gateway.observers import check_endpoints, harmless, observers
from deploy.gateway.request import RequestRecord
from deploy.gateway.request_scope import RequestScope
from deploy.settings import Settings
from tests.unit.asgi_calls import Upstream, call, scope_of
from tests.unit.key_gate import CHAT, Clock
from tests.unit.records import MARK, arrived, end, served


def settings(**groups: Any) -> Settings:
    return Settings.model_validate(groups)


def test_an_observer_that_fails_breaks_no_request(caplog: pytest.LogCaptureFixture) -> None:
    def fail(record: RequestRecord) -> None:
        raise ValueError(MARK)

    app = RequestScope(Upstream(chunks=[b"answer"]), (harmless(fail),))
    for _ in range(3):
        assert call(app, scope_of(CHAT)).body == b"answer"
    assert [record.getMessage() for record in caplog.records] == ["function failed on a request (ValueError)"]


def test_a_warning_is_repeated_when_its_time_has_come(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    clock = Clock()
    seldom = Seldom(60, clock)
    for now in (0.0, 1.0, 59.9, 60.0, 60.1):
        clock.now = now
        seldom.warn("at %s", now)
    assert [record.getMessage() for record in caplog.records] == ["at 0.0", "at 60.0"]


def told(settings: Settings, record: RequestRecord) -> None:
    async def tell() -> None:
        for observer in observers(settings, "demo"):
            ended, record.ended = record.ended, None
            observer(record)
            record.ended = ended
            observer(record)
        # A timer of the same event loop, due after the one that tells the slow observers.
        await asyncio.sleep(2 * BATCH_S)

    asyncio.run(tell())


def test_the_settings_say_what_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FIFO_VARIABLE, raising=False)
    chosen = settings(log={"format": "json"}, usage={"directory": tmp_path})
    check_endpoints(chosen)
    told(chosen, served())
    assert json.loads(capsys.readouterr().err)["request_id"] == "r-1"
    while not (files := list(tmp_path.glob("usage-2030-01-31-*.jsonl"))) or not files[0].read_text():
        pass
    assert json.loads(files[0].read_text())["request_id"] == "r-1"


def test_what_is_turned_off_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = settings(log={"access": False})
    assert len(observers(chosen, "demo")) == 1
    told(chosen, end(arrived()))
    assert capsys.readouterr().err == ""


def test_two_replicas_write_different_files(tmp_path: Path) -> None:
    chosen = settings(log={"access": False}, usage={"directory": tmp_path})
    told(chosen, served())
    told(chosen, served())
    while len(list(tmp_path.glob("*.jsonl"))) < 2:
        pass


def test_an_endpoint_that_nothing_could_be_sent_to_is_refused_at_the_start() -> None:
    with pytest.raises(UsageError, match=r"tracing\.otlp_endpoint"):
        check_endpoints(settings(tracing={"otlp_endpoint": "collector"}))
