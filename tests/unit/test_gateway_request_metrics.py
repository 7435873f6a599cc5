"""Prevents: a request, a token or a hang-up that is counted twice, not at all, or for another key."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, generate_latest

from deploy.gateway.request import RequestRecord
from deploy.gateway.request_metrics import observe
from tests.unit.key_gate import CHAT
from tests.unit.records import RECEIVED, arrived, end, key, send_marked_requests, served


class Changes:
    """How much each metric has changed since this object was made: other tests count in the same registry."""

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        return {
            (sample.name.removeprefix("mistral_serve_"), tuple(sorted(sample.labels.items()))): sample.value
            for metric in REGISTRY.collect()
            for sample in metric.samples
            if sample.name.startswith("mistral_serve_") and not sample.name.endswith("_created")
        }

    def of(self, name: str, **labels: str) -> float:
        place = (name, tuple(sorted(labels.items())))
        return self._now().get(place, 0.0) - self._before.get(place, 0.0)

    def names(self) -> set[str]:
        now = self._now()
        return {place[0] for place in now if now[place] != self._before.get(place, 0.0)}


@pytest.fixture
def changes() -> Changes:
    return Changes()


def observe_both(record: RequestRecord) -> None:
    """As ``RequestScope`` does."""
    ended, record.ended = record.ended, None
    observe(record)
    record.ended = ended
    observe(record)


def test_a_running_request_is_ongoing_and_nothing_else(changes: Changes) -> None:
    record = arrived()
    observe(record)
    assert changes.of("ongoing_requests") == 1
    assert changes.names() == {"ongoing_requests"}
    observe(end(record))
    assert changes.of("ongoing_requests") == 0


def test_a_served_request_counts_for_its_key_with_its_tokens(changes: Changes) -> None:
    observe_both(served(key=key("a")))
    observe_both(served(key=key("b"), completion_tokens=1))
    assert changes.of("requests_total", key="a", route=CHAT, status="200") == 1
    assert changes.of("tokens_total", key="a", kind="prompt") == 12
    assert changes.of("tokens_total", key="a", kind="completion") == 64
    assert changes.of("tokens_total", key="b", kind="completion") == 1
    assert "hang_ups_total" not in changes.names()


@pytest.mark.parametrize(("stage", "seconds"), [("gateway", 0.01), ("queue", 0.02), ("prefill", 0.07), ("decode", 1.9)])
def test_every_stage_is_timed(changes: Changes, stage: str, seconds: float) -> None:
    observe_both(served())
    assert changes.of("stage_seconds_count", stage=stage) == 1
    assert changes.of("stage_seconds_sum", stage=stage) == pytest.approx(seconds)


def test_a_stage_that_was_not_reached_is_not_timed(changes: Changes) -> None:
    observe_both(end(arrived(), engine_entered=RECEIVED + 0.5, hung_up=True, complete=False, status=0))
    assert changes.of("stage_seconds_count", stage="gateway") == 1
    assert [changes.of("stage_seconds_count", stage=stage) for stage in ("queue", "prefill", "decode")] == [0, 0, 0]


def test_a_clock_that_runs_apart_makes_no_negative_time(changes: Changes) -> None:
    observe_both(served(queued_s=-0.001))
    assert changes.of("stage_seconds_sum", stage="queue") == 0


def test_a_hang_up_counts_with_the_tokens_that_were_made(changes: Changes) -> None:
    observe_both(served(hung_up=True, complete=False, completion_tokens=3))
    assert changes.of("hang_ups_total", key="team") == 1
    assert changes.of("tokens_total", key="team", kind="completion") == 3


@pytest.mark.parametrize(
    ("fields", "broken"),
    [
        ({"failed": True}, 1),
        ({"complete": False}, 1),
        ({"complete": False, "hung_up": True}, 0),
        ({"status": 500}, 0),
        ({}, 0),
    ],
)
def test_an_answer_that_failed_after_its_200_is_counted(changes: Changes, fields: dict[str, Any], broken: int) -> None:
    observe_both(served(**fields))
    assert changes.of("broken_answers_total", key="team", route=CHAT) == broken


def test_a_refused_request_makes_no_token_series(changes: Changes) -> None:
    observe_both(end(arrived(key=None), status=401))
    assert changes.of("requests_total", key="", route=CHAT, status="401") == 1
    assert changes.names() == {"requests_total"}


def test_nothing_private_becomes_a_label(tmp_path: Path) -> None:
    private = send_marked_requests(observe, tmp_path)
    text = generate_latest(REGISTRY).decode()
    assert [word for word in private if word in text] == []
    assert 'route="unknown",status="404"' in text
