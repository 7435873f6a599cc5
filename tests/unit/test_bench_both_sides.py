"""Prevents: figures of the gateway's cost from a side that is off and has some of it, or one that is on without."""

import json
from typing import Any

import pytest

from deploy.gateway.admission import Admission, Ticket
from deploy.gateway.stack import Gateway
from deploy.loading import load
from deploy.quota_actor import book_for
from deploy.settings import AdmissionSettings, LogSettings, TracingSettings, UsageSettings
from tests.bench.both_sides import BothSides, meter_both
from tests.bench.fake_engine import CAPACITY, TOKENS, FakeApp, FakeEngine
from tests.bench.gateway_sides import Side, both_sides
from tests.unit.asgi_calls import Response, call, scope_of


class Ledger(Admission):
    """Counts what it is asked."""

    asked = 0

    def check(self, *arguments: Any, **options: Any) -> None:
        self.asked += 1
        super().check(*arguments, **options)

    def admit(self, *arguments: Any, **options: Any) -> Ticket:
        self.asked += 1
        return super().admit(*arguments, **options)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(CAPACITY, AdmissionSettings())


def ask(side: Side, ledger: Ledger, headers: dict[str, str]) -> Response:
    # What is written after a request would be written when the test is over.
    quiet = {"log": LogSettings(access=False), "tracing": TracingSettings(), "usage": UsageSettings()}
    settings = load(argv=side.flags).model_copy(update=quiet)
    engine = FakeEngine()
    meter_both(engine, ledger, settings.limits)
    body = json.dumps({"model": "demo", "prompt": "x", "stream": True}).encode()

    async def app(*arguments: Any) -> None:
        both = BothSides(settings, Gateway(settings, book_for(settings)))
        await both.around(FakeApp(engine), "demo", ledger)(*arguments)

    return call(app, scope_of("/v1/completions", headers), [body])


def test_a_request_gets_the_side_that_its_headers_ask_for(ledger: Ledger) -> None:
    with both_sides() as (on, off):
        refused, whole, bare = (ask(on, ledger, headers) for headers in ({}, on.headers, off.headers))
    assert (refused.status, whole.status, bare.status) == (401, 200, 200)
    assert whole.body.count(b"token") == bare.body.count(b"token") == TOKENS
    limited = [any(name.startswith("x-ratelimit") for name in answer.headers) for answer in (whole, bare)]
    assert limited == [True, False]
    # At the door and before the engine, of the whole one.
    assert ledger.asked == 2
