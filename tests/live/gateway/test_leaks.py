"""Prevents: a key, a prompt or a completion in a log, a metric, an error or the usage log."""

import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.live.gateway.guarded import Guarded

pytestmark = pytest.mark.live
MARK = "zqMARKEDqz"
"""Put wherever a client can write something, and repeated by the model where it echoes its prompt."""
USER: Any = [{"role": "user", "content": MARK}]
BODIES: tuple[tuple[str, Any, int], ...] = (
    ("/v1/completions", {"model": "demo", "prompt": MARK, "max_tokens": 2, "echo": True, "user": MARK}, 200),
    ("/v1/completions", {"model": "demo", "prompt": MARK, "max_tokens": 2, "echo": True, "stream": True}, 200),
    ("/v1/chat/completions", {"model": "demo", "messages": USER, "max_tokens": 2, "metadata": {"a": MARK}}, 200),
    ("/v1/chat/completions", {"model": "demo", "messages": USER, "max_tokens": 2, "stream": True}, 200),
    ("/v1/responses", {"model": "demo", "input": MARK, "max_output_tokens": 16}, 200),
    ("/v1/messages", {"model": "demo", "messages": USER, "max_tokens": 2}, 200),
    ("/tokenize", {"model": "demo", "prompt": MARK}, 200),
    ("/v1/completions", {"model": "demo", "prompt": MARK * 20_000, "max_tokens": 2}, 400),
    ("/v1/completions", {"model": "demo", "prompt": [MARK, {"a": MARK}], "max_tokens": 2}, 400),
    ("/v1/chat/completions", {"model": "demo", "messages": [{"role": 7, "content": MARK}]}, 400),
    ("/v1/chat/completions", {"model": "demo", "messages": USER, "max_tokens": 10**6}, 400),
    ("/v1/chat/completions", {"model": "demo", "messages": USER, "n": 100}, 400),
    ("/v1/responses", {"model": "demo", "input": {"a": MARK}}, 400),
    ("/v1/messages", {"model": "demo", "messages": MARK, "max_tokens": 2}, 400),
)


def send(guarded: Guarded, path: str, content: bytes, key: str) -> httpx.Response:
    headers = {
        "authorization": f"Bearer {key}",
        "content-type": "application/json",
        "x-request-id": f"{MARK} {MARK}",
        "traceparent": f"00-{MARK}",
        "user-agent": MARK,
    }
    return httpx.post(f"{guarded.server.url}{path}", content=content, headers=headers, timeout=60)


def found_in(directory: Path, words: list[str]) -> list[str]:
    """The files that hold one of the words, however deep they lie."""
    files = [path for path in directory.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [str(path) for path in files if any(word.encode() in path.read_bytes() for word in words)]


def test_nothing_private_is_written_anywhere(guarded: Guarded) -> None:
    errors = []
    for path, body, status in BODIES:
        answer = send(guarded, path, json.dumps(body).encode(), guarded.key)
        assert answer.status_code == status, answer.text
        assert answer.headers["x-request-id"] != f"{MARK} {MARK}"
        if status != 200:
            errors.append(answer.text)
    errors.append(send(guarded, "/v1/completions", f'{{"prompt": "{MARK}'.encode(), guarded.key).text)
    errors.append(send(guarded, f"/{MARK}", b"{}", guarded.key).text)
    errors.append(send(guarded, "/v1/completions", json.dumps(BODIES[0][1]).encode(), f"{guarded.key}x").text)
    errors.append(send(guarded, "/v1/chat/completions", json.dumps(BODIES[2][1]).encode(), guarded.restricted).text)
    with guarded.refusing():
        errors.append(send(guarded, "/v1/completions", json.dumps(BODIES[0][1]).encode(), guarded.key).text)
    # Longer than the usage log collects lines, and the observers wait for anything.
    time.sleep(1)
    words = [MARK, *(key[12:] for key in guarded.secrets)]
    lines = guarded.server.stderr + guarded.server.stdout + guarded.get("/metrics").text.splitlines() + errors
    assert [line for line in lines if any(word in line for word in words)] == []
    assert found_in(guarded.session, words) == []
    assert found_in(guarded.usage, words) == []
    assert len(guarded.access_lines()) >= len(BODIES)
