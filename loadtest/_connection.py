"""Connections to the server, read so that every byte is seen, with its time of arrival, as soon as it is there.

On Linux the kernel stamps what it receives, so an arrival stays true while this process is busy with another stream.
Calls block; under Locust they are gevent's.
"""

import socket
import ssl
import struct
import sys
import time
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

READ_SIZE = 1 << 16
"""Bytes. A read returns what is there, up to so much; it never waits for more."""
SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the socket module does not name it
_TIMESPEC = struct.Struct("qq")
_KERNEL_STAMPS = sys.platform == "linux" and struct.calcsize("P") == 8


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go. ``path`` has no slash and no ``/v1`` at its end."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Self:
        """The endpoint of a base URL, with or without ``/v1``. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no base URL; write it like http://127.0.0.1:8000.")
        if parts.username or parts.query or parts.fragment:
            raise ValueError("The base URL holds a user name, a query or a fragment; give scheme, host, port and path.")
        parts.hostname.encode("idna")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1").rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Connection:
    """One connection to the server."""

    def __init__(self, endpoint: Endpoint, timeout_s: float, tls: ssl.SSLContext | None) -> None:
        """Connect. Raises OSError (``ssl.SSLError`` is one)."""
        self._socket = socket.create_connection((endpoint.host, endpoint.port), timeout_s)
        self._stamped = _KERNEL_STAMPS and tls is None
        self._read_at = 0.0
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._stamped:
                self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname=endpoint.host)
        except BaseException:
            self._socket.close()
            raise

    def send(self, data: bytes, deadline: float) -> None:
        """Send all of it. Raises OSError; TimeoutError past the deadline (``perf_counter``)."""
        self._wait_until(deadline)
        self._socket.sendall(data)

    def receive(self, deadline: float) -> tuple[float, bytes]:
        """The next bytes, empty at the end of the stream, and when they arrived. Raises OSError, TimeoutError."""
        self._wait_until(deadline)
        if not self._stamped:
            data = self._socket.recv(READ_SIZE)
            return time.perf_counter(), data
        data, ancillary, _, _ = self._socket.recvmsg(READ_SIZE, 64)
        waited = time.time()
        now = time.perf_counter()
        arrived = now
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
                seconds, nanoseconds = _TIMESPEC.unpack(value)
                # Bytes cannot have come before the last read, which took all. A wall clock that was set says they did.
                arrived = min(now, max(self._read_at, now - (waited - seconds - nanoseconds * 1e-9)))
        self._read_at = now
        return arrived, data

    def _wait_until(self, deadline: float) -> None:
        left = deadline - time.perf_counter()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def is_stale(self) -> bool:
        """Whether an idle connection was closed, or was sent what nobody asked for. Unknown, so False, with TLS."""
        if isinstance(self._socket, ssl.SSLSocket):
            return False
        self._socket.settimeout(0)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def close(self) -> None:
        """Close it, without a word to the server."""
        self._socket.close()


class Pool:
    """Idle connections to one endpoint, last used first. Grows with the requests in flight; safe among greenlets."""

    def __init__(self, endpoint: Endpoint, connect_timeout_s: float) -> None:
        self._endpoint = endpoint
        self._connect_timeout_s = connect_timeout_s
        self._tls = ssl.create_default_context() if endpoint.scheme == "https" else None
        self._idle: list[Connection] = []
        self._closed = False

    def reuse(self) -> Connection | None:
        """An idle connection that is still open, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_stale():
                return connection
            connection.close()
        return None

    def connect(self, deadline: float) -> Connection:
        """A new connection. Raises OSError."""
        left = deadline - time.perf_counter()
        if left <= 0:
            raise TimeoutError
        return Connection(self._endpoint, min(left, self._connect_timeout_s), self._tls)

    def give_back(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end."""
        if self._closed:
            connection.close()
        else:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle now, and what is given back later."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()
