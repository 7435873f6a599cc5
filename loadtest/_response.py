"""One HTTP/1.1 answer, parsed as its bytes arrive. httptools (llhttp, in C) does it; no buffer has to fill."""

import httptools

LARGEST_HEAD = 1 << 17
"""Bytes that may come before the headers end."""


class NotHttpError(Exception):
    """The server did not answer in HTTP/1.1, or with headers without an end."""


class Response:
    """One answer, parsed as it arrives."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.head_complete = False
        self.complete = False
        self._pieces: list[bytes] = []
        self._head_length = 0
        self._surplus = False
        """More came after the end."""
        self._keeps_alive = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> list[bytes]:
        """Parse the next bytes; what they hold of the body. Raises NotHttpError."""
        if not self.head_complete:
            self._head_length += len(data)
            if self._head_length > LARGEST_HEAD:
                raise NotHttpError(f"headers longer than {LARGEST_HEAD} bytes")
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if not self.complete:
                raise NotHttpError("the answer is not HTTP/1.1") from error
            self._surplus = True
        pieces, self._pieces = self._pieces, []
        return pieces

    @property
    def may_end_here(self) -> bool:
        """Whether the server may end the answer by closing: it declared neither a length nor chunks."""
        is_chunked = "chunked" in self.headers.get("transfer-encoding", "").lower()
        return self.head_complete and not is_chunked and "content-length" not in self.headers

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request."""
        return self.complete and not self._surplus and self._keeps_alive

    # httptools calls these.
    def on_message_begin(self) -> None:
        self._surplus = self.complete
        self.headers = {} if not self.complete else self.headers

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._surplus:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        if not self._surplus:
            self.status = self._parser.get_status_code()
            self.head_complete = self.status >= 200  # an interim 1xx answer precedes the real one

    def on_body(self, piece: bytes) -> None:
        if not self._surplus:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        if self.head_complete and not self.complete:
            self.complete = True
            self._keeps_alive = self._parser.should_keep_alive()
