"""Prevents: events of a stream that are lost, merged or read late, depending on where the network cut it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest._sse import Event, EventTooLargeError, Parser


def parse(stream: bytes) -> list[Event]:
    return Parser().feed(stream)


def data_of(stream: bytes) -> list[bytes]:
    return [event.data for event in parse(stream)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\r\n\rdata: b\n\r", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data: a\ndata\ndata: c\n\n", [b"a\n\nc"]),
        (b"data\n\n", [b""]),
        (b": ping\n\n", []),
        (b": ping\ndata: a\n\n", [b"a"]),
        (b":\n\n:\n\ndata: a\n\n", [b"a"]),
        (b"id: 5\nretry: 10\nunknown: x\ndata: a\n\n", [b"a"]),
        (b"\n\n\ndata: a\n\n\n\n", [b"a"]),
        (b"event: ping\n\n", []),
        (b" data: a\n\n", []),
        (b"Data: a\n\n", []),
        (b"data: a: b\n\n", [b"a: b"]),
        (b"data: a\n", []),
        (b"data: a", []),
        (b"", []),
    ],
)
def test_the_standard_says_what_an_event_is(stream: bytes, expected: list[bytes]) -> None:
    assert data_of(stream) == expected


def test_an_event_has_the_type_that_it_names_and_the_next_one_has_none() -> None:
    assert parse(b"event: error\ndata: a\n\ndata: b\n\n") == [(b"error", b"a"), (b"", b"b")]


def test_a_type_without_data_does_not_stick_to_the_next_event() -> None:
    assert parse(b"event: error\n\ndata: a\n\n") == [(b"", b"a")]


def test_a_byte_order_mark_is_dropped_at_the_start_only() -> None:
    mark = b"\xef\xbb\xbf"
    assert data_of(mark + b"data: a\n\n" + mark + b"data: b\n\n") == [b"a"]


@pytest.mark.parametrize("start", [b"\xef", b"\xef\xbb"])
def test_half_a_byte_order_mark_is_none(start: bytes) -> None:
    parser = Parser()
    assert parser.feed(start) == []
    assert parser.feed(b"\ndata: a\n\n") == [(b"", b"a")]


STREAMS = st.lists(
    st.sampled_from(
        [b"data: ", b"data:", b"event: e", b": c", b"a", "風".encode(), b"\n", b"\r", b"\r\n", b"\n\n", b"\xef\xbb\xbf"]
    ),
    max_size=30,
).map(b"".join)


@given(stream=STREAMS, cuts=st.lists(st.integers(0, 100), max_size=8))
def test_where_the_network_cuts_makes_no_difference(stream: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    parser = Parser()
    events = [event for start, end in itertools.pairwise(edges) for event in parser.feed(stream[start:end])]
    whole = Parser()
    assert events == [event for at in range(len(stream)) for event in whole.feed(stream[at : at + 1])]
    assert events == parse(stream)


@given(stream=STREAMS)
def test_the_kind_of_line_end_makes_no_difference(stream: bytes) -> None:
    plain = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert parse(plain) == parse(plain.replace(b"\n", b"\r\n")) == parse(plain.replace(b"\n", b"\r"))


def test_an_event_is_there_as_soon_as_its_blank_line_is() -> None:
    parser = Parser()
    assert parser.feed(b"data: a\r") == []
    assert parser.feed(b"\r") == [(b"", b"a")]
    assert parser.feed(b"\ndata: b\n\n") == [(b"", b"b")]


def test_the_largest_line_is_read() -> None:
    assert Parser(largest=10).feed(b"data: 1234\n\n") == [(b"", b"1234")]


@pytest.mark.parametrize("end", [b"", b"\n\n", b"\r\n\r\n"])
def test_a_line_beyond_the_bound_is_refused(end: bytes) -> None:
    with pytest.raises(EventTooLargeError, match="a line is longer than 10 bytes"):
        Parser(largest=10).feed(b"data: 12345" + end)


def test_a_line_beyond_the_bound_is_refused_however_small_its_pieces_are() -> None:
    parser = Parser(largest=10)
    for _ in range(10):
        parser.feed(b"x")
    with pytest.raises(EventTooLargeError):
        parser.feed(b"x")


def test_an_event_of_many_lines_beyond_the_bound_is_refused() -> None:
    with pytest.raises(EventTooLargeError, match="the data of an event"):
        Parser(largest=10).feed(b"data: 1234\n" * 3)
