"""An incremental parser of server-sent events, after the "Parsing an event stream" section of the WHATWG HTML standard.

It works on bytes, so a character split over two network reads needs no care; whoever uses the data decodes it. The
fields ``id`` and ``retry`` are for reconnecting, which a load test never does: they are ignored like unknown ones.
"""

from typing import NamedTuple

BOM = b"\xef\xbb\xbf"
LARGEST_EVENT = 1 << 20
"""Bytes. A chunk of a completion is a few hundred."""


class Event(NamedTuple):
    """One dispatched event. ``type`` is empty for the default one ("message")."""

    type: bytes
    data: bytes


class EventTooLargeError(Exception):
    """A line, or the data of one event, is longer than the bound."""


class Parser:
    """Turns the pieces of one stream, cut anywhere, into its events."""

    def __init__(self, largest: int = LARGEST_EVENT) -> None:
        self._largest = largest
        self._start: bytes | None = b""
        """What came so far while it can still be a byte order mark; None after that."""
        self._line: list[bytes] = []
        self._line_length = 0
        self._after_cr = False
        self._type = b""
        self._data: list[bytes] = []
        self._data_length = 0

    def feed(self, piece: bytes) -> list[Event]:
        """The events that this piece completes. Raises EventTooLargeError."""
        if self._start is not None:
            piece = self._without_bom(piece)
        events: list[Event] = []
        if self._is_between_events() and piece.endswith(b"\n\n") and b"\r" not in piece:
            self._feed_whole(piece, events)
        else:
            self._feed_any(piece, events)
        return events

    def _is_between_events(self) -> bool:
        return not (self._line or self._data or self._type or self._after_cr)

    def _without_bom(self, piece: bytes) -> bytes:
        start = (self._start or b"") + piece
        if len(start) < len(BOM) and BOM.startswith(start):
            self._start = start
            return b""
        self._start = None
        return start.removeprefix(BOM)

    def _feed_whole(self, piece: bytes, events: list[Event]) -> None:
        """The shape that servers nearly always send: whole events, each one ``data: `` line. Much cheaper."""
        for block in piece[:-2].split(b"\n\n"):
            if block.startswith(b"data: ") and b"\n" not in block and len(block) <= self._largest:
                events.append(Event(b"", block[6:]))
            else:
                self._feed_any(block + b"\n\n", events)

    def _feed_any(self, piece: bytes, events: list[Event]) -> None:
        if self._after_cr and piece:
            piece = piece.removeprefix(b"\n")
            self._after_cr = False
        for line in piece.splitlines(keepends=True):  # of bytes: splits at CR, LF and CRLF only
            ended = line[-1] in b"\r\n"
            self._line.append(line.rstrip(b"\r\n"))
            self._line_length += len(self._line[-1])
            if self._line_length > self._largest:
                raise EventTooLargeError(f"a line is longer than {self._largest} bytes")
            if ended:
                whole, self._line, self._line_length = b"".join(self._line), [], 0
                self._end_line(whole, events)
        self._after_cr = self._after_cr or piece.endswith(b"\r")

    def _end_line(self, line: bytes, events: list[Event]) -> None:
        if not line:
            if self._data:
                events.append(Event(self._type, b"\n".join(self._data)))
            self._type, self._data, self._data_length = b"", [], 0
            return
        name, _, value = line.partition(b":")  # of a comment the name is empty
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_length += len(value) + 1
            if self._data_length > self._largest:
                raise EventTooLargeError(f"the data of an event is longer than {self._largest} bytes")
        elif name == b"event":
            self._type = value
