"""A server with keys, quotas, a usage log and every log that it writes, as the tests of this folder share it."""

import contextlib
import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai

from deploy import keys, usage
from deploy.cluster import RunDirectory
from deploy.proxy import DRAINING
from deploy.proxy_admin import command
from tests.live.deployment import Deployment, serving

QUESTION: Any = [{"role": "user", "content": "What is the capital of France?"}]


def new_key(file: Path, *arguments: str) -> str:
    """A key as the command prints it."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
        assert keys.main(["new", "--file", str(file), *arguments]) == 0
    return printed.getvalue().strip()


def report(directory: Path, *arguments: str) -> list[dict[str, Any]]:
    """The rows of a usage report, as the command prints them."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert usage.main(["report", "--directory", str(directory), "--format", "json", *arguments]) == 0
    rows: list[dict[str, Any]] = json.loads(printed.getvalue())
    return rows


@dataclass(frozen=True)
class Guarded:
    """A server with keys on, its key file, its usage directory, and keys that were valid when it started.

    ``key`` opens everything, ``restricted`` another model only. ``secrets`` are all keys that were ever made.
    """

    server: Deployment
    file: Path
    usage: Path
    key: str
    restricted: str
    secrets: list[str] = field(default_factory=list)

    def new_key(self, *arguments: str) -> str:
        key = new_key(self.file, *arguments)
        self.secrets.append(key)
        return key

    def openai(self, key: str | None = None, **options: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.server.url}/v1", api_key=key or self.key, **{"max_retries": 0, **options})

    def anthropic(self, key: str | None = None, **options: Any) -> anthropic.Anthropic:
        return anthropic.Anthropic(base_url=self.server.url, api_key=key or self.key, **{"max_retries": 0, **options})

    def get(self, path: str, key: str | None = None) -> httpx.Response:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        return httpx.get(f"{self.server.url}{path}", headers=headers, timeout=60)

    def post(self, path: str, body: dict[str, Any], key: str | None = None) -> httpx.Response:
        headers = {"authorization": f"Bearer {key or self.key}"}
        return httpx.post(f"{self.server.url}{path}", json=body, headers=headers, timeout=120)

    def send(self, path: str, body: dict[str, Any], key: str | None = None) -> socket.socket:
        """A connection on which a request was sent and nothing was read yet."""
        content = json.dumps(body).encode()
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        head = [f"POST {path} HTTP/1.1", "host: localhost", f"authorization: Bearer {key or self.key}"]
        head += ["content-type: application/json", f"content-length: {len(content)}", "", ""]
        connection.sendall("\r\n".join(head).encode() + content)
        return connection

    def metric(self, name: str, **labels: str) -> float:
        """A metric of the replica; 0 while it has none with such labels."""
        for line in self.get("/metrics").text.splitlines():
            match = re.fullmatch(rf"{re.escape(name)}(?:\{{(.*)\}})? (\S+)", line)
            if match and all(f'{label}="{value}"' in (match[1] or "") for label, value in labels.items()):
                return float(match[2])
        return 0.0

    @property
    def session(self) -> Path:
        """Ray's session directory, where every process of the deployment writes its logs."""
        return next(
            Path(argument.removeprefix("--log_dir=")).parent
            for process in self.server.named("gcs_server")
            for argument in process.cmdline()
            if argument.startswith("--log_dir=")
        )

    @contextlib.contextmanager
    def refusing(self) -> Iterator[Callable[[], None]]:
        """HAProxy answers every request with 503, as it does while the server stops, until what this yields is called.

        At the end it is called anyway.
        """
        admin = RunDirectory(self.session.parent).admin_socket

        def refuse(*, on: bool) -> None:
            command(admin, f"experimental-mode on; set var {DRAINING} bool({str(on).lower()})")

        refuse(on=True)
        try:
            yield lambda: refuse(on=False)
        finally:
            refuse(on=False)

    def access_lines(self) -> list[dict[str, Any]]:
        """The lines of the access log so far."""
        return [json.loads(line) for line in self.server.stderr if line.startswith('{"time":')]


@contextlib.contextmanager
def guarded_server(
    directory: Path, key: tuple[str, ...], restricted: tuple[str, ...], *flags: str
) -> Iterator[Guarded]:
    """A server with two keys, made of a name and further arguments; key file and usage log are in ``directory``."""
    file, usage = directory / "keys.yaml", directory / "usage"
    first, second = (new_key(file, "--name", *arguments) for arguments in (key, restricted))
    with serving("--gateway.keys-file", str(file), "--usage.directory", str(usage), *flags) as server:
        yield Guarded(server, file, usage, first, second, [first, second])
