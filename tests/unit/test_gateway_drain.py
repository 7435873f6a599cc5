"""Prevents: a wait that is estimated from rates of an idle, a stalled or another engine than the one that runs."""

import math

import pytest

from deploy.gateway.drain import MEMORY_S, Rate, Resource

SLOTS = 4


def resource(capacity: int = SLOTS) -> Resource:
    return Resource(capacity, 0.0)


def serve(slots: Resource, *, holders: int, held_s: float, rounds: int, begin: float = 0.0) -> float:
    """``holders`` take one unit each, keep it for ``held_s``, and others follow; returns when the last ones ended."""
    now = begin
    for _ in range(rounds):
        slots.advance(now)
        for _ in range(holders):
            slots.take(1, now)
        now += held_s
        slots.advance(now)
        for _ in range(holders):
            slots.give_back(1, now - held_s)
    return now


def test_a_rate_is_unknown_until_units_and_work_were_seen() -> None:
    rate = Rate(0.0)
    assert math.isinf(rate.value)
    rate.advance(10.0, 1.0)
    assert math.isinf(rate.value)
    rate.add(50)
    assert rate.value == pytest.approx(5.0, rel=0.1)


def test_time_without_work_neither_counts_nor_ages_a_rate() -> None:
    rate = Rate(0.0)
    rate.advance(10.0, 1.0)
    rate.add(50)
    before = rate.value
    rate.advance(1e6, 0.0)
    assert rate.value == before


def test_a_rate_follows_the_latest_work() -> None:
    rate = Rate(0.0)
    now = 0.0
    for units in [1] * 1000 + [10] * int(5 * MEMORY_S):
        now += 1.0
        rate.advance(now, 1.0)
        rate.add(units)
    assert rate.value == pytest.approx(10.0, rel=0.05)


def test_a_clock_that_stands_still_or_goes_back_does_no_harm() -> None:
    rate = Rate(5.0)
    rate.advance(5.0, 1.0)
    rate.advance(3.0, 1.0)
    rate.add(1)
    assert math.isinf(rate.value)


def test_the_drain_rate_is_that_of_a_full_resource_whatever_was_held_when_it_was_measured() -> None:
    for holders in (1, SLOTS):
        slots = resource()
        serve(slots, holders=holders, held_s=2.0, rounds=200)
        assert slots.drain_rate == pytest.approx(SLOTS / 2.0, rel=0.05)


def test_nobody_waits_while_there_is_room_or_nothing_is_known() -> None:
    slots = resource()
    slots.take(SLOTS - 1, 0.0)
    assert slots.wait_s(0, 1) == 0
    assert slots.wait_s(1000, 1) == 0


def test_the_wait_is_what_lacks_at_the_rate_at_which_it_drains() -> None:
    slots = resource()
    now = serve(slots, holders=SLOTS, held_s=2.0, rounds=200)
    slots.advance(now)
    for age in range(SLOTS):
        slots.take(1, now - age / 2)
    assert slots.wait_s(0, 1) == pytest.approx(0.5, rel=0.05)
    assert slots.wait_s(SLOTS - 1, 1) == pytest.approx(2.0, rel=0.05)
    assert slots.wait_s(3 * SLOTS - 1, 1) == pytest.approx(6.0, rel=0.05)


def test_who_comes_when_everybody_has_just_begun_waits_until_the_first_of_them_is_due() -> None:
    slots = resource()
    now = serve(slots, holders=SLOTS, held_s=30.0, rounds=5)
    for _ in range(SLOTS):
        slots.take(1, now)
    slots.advance(now + 1)
    assert slots.wait_s(0, 1) == pytest.approx(29.0)
    assert slots.wait_s(SLOTS, 1) == pytest.approx(59.0)
    slots.advance(now + 29)
    assert slots.wait_s(0, 1) < 10


def test_those_who_find_room_now_are_due_after_the_typical_time() -> None:
    slots = resource()
    now = serve(slots, holders=SLOTS, held_s=30.0, rounds=5)
    slots.take(1, now)
    slots.advance(now + 10)
    assert slots.wait_s(SLOTS, 1) == pytest.approx(30.0)


def test_a_burst_into_an_idle_engine_is_expected_to_last_as_long_again_as_it_has() -> None:
    slots = resource()
    for _ in range(SLOTS):
        slots.take(1, 0.0)
    slots.advance(1.0)
    early = slots.wait_s(0, 1)
    slots.advance(10.0)
    assert early == pytest.approx(0.5, rel=0.1)
    assert slots.wait_s(0, 1) == pytest.approx(5.0, rel=0.1)


def test_a_stall_lengthens_the_wait_and_its_end_shortens_it_again() -> None:
    slots = resource()
    now = serve(slots, holders=SLOTS, held_s=1.0, rounds=100)
    for _ in range(SLOTS):
        slots.take(1, now)
    slots.advance(now + 300)
    stalled = slots.wait_s(SLOTS, 1)
    assert stalled > 10
    for _ in range(SLOTS):
        slots.give_back(1, now)
    end = serve(slots, holders=SLOTS, held_s=1.0, rounds=200, begin=now + 300)
    for _ in range(SLOTS):
        slots.take(1, end)
    assert slots.wait_s(SLOTS, 1) < 3


def test_what_never_fits_waits_like_what_takes_everything() -> None:
    slots = resource()
    now = serve(slots, holders=SLOTS, held_s=1.0, rounds=100)
    assert slots.wait_s(0, 10 * SLOTS) == 0
    slots.take(1, now)
    assert slots.wait_s(0, 10 * SLOTS) == slots.wait_s(0, SLOTS) > 0


def test_an_engine_that_holds_more_than_was_reckoned_has_more_room() -> None:
    slots = resource()
    slots.take(3 * SLOTS, 0.0)
    assert (slots.room, slots.wait_s(0, 0)) == (3 * SLOTS, 0)


def test_what_was_held_before_anybody_noticed_counts() -> None:
    slots = resource()
    slots.advance(100.0)
    slots.take(1, 90.0)
    slots.give_back(1, 90.0)
    assert slots.drain_rate == pytest.approx(SLOTS / 10.0)
