"""A TCP server that says exactly the bytes it is told to, for what no well-made server does."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

EVENT_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"


class ByteServer:
    """Answers the n-th request with the n-th entry: the bytes of one connection's answers, in order.

    Each inner list is one connection; after its last answer the connection is closed.
    """

    def __init__(self, connections: list[list[bytes]], tls: ssl.SSLContext | None) -> None:
        self.requests: list[bytes] = []
        self._connections = connections
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answers in self._connections:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._answer(connection, answers)
        self._listener.close()

    def _answer(self, raw: socket.socket, answers: list[bytes]) -> None:
        try:
            connection = self._tls.wrap_socket(raw, server_side=True) if self._tls else raw
            for answer in answers:
                request = read_request(connection)
                if not request:
                    return
                self.requests.append(request)
                connection.sendall(answer)
        except OSError:
            return
        finally:
            if self._tls and "connection" in locals():
                connection.close()

    def close(self) -> None:
        with suppress(OSError):  # closing alone would not wake the thread that waits for a connection
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


def read_request(connection: socket.socket) -> bytes:
    """One request with its body; empty where the client closed."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def byte_server(*connections: list[bytes], tls: ssl.SSLContext | None = None) -> Iterator[ByteServer]:
    server = ByteServer(list(connections), tls)
    try:
        yield server
    finally:
        server.close()
