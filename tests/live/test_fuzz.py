"""Prevents: a request, however wrong, that crashes, hangs or unmasks the server.

Requests come from two places: schemathesis makes them from the server's own OpenAPI document, valid and deliberately
invalid ones; others are malformed by hand. How long each may take is bounded.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from deploy.gateway.routes import JSON_ROUTES
from tests.live.deployment import Deployment, serving
from tests.live.generated import generated_requests
from tests.live.malformed import Case, malformed_requests

pytestmark = pytest.mark.live
AT_ONCE = 8
SLOWEST_S = 120
LONGEST_COMPLETION = 8
"""Tokens, so that valid requests end soon."""
NOT_HTTP = "<html><body><h1>400 Bad request</h1>"
"""What HAProxy answers, whatever its configuration says, to what is not even HTTP."""
INTERNALS = re.compile(
    r"Traceback|\.py\b|site-packages|/home/|/root/|/tmp/|pydantic|0x[0-9a-f]{8}|<class|object at|asyncio|\bray\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def open_server() -> Iterator[Deployment]:
    with serving("--limits.max-tokens", str(LONGEST_COMPLETION)) as server:
        yield server


class Answers:
    """What came back, counted, and everything that should not have."""

    def __init__(self, server: Deployment) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE)
        self.client = httpx.Client(base_url=server.url, timeout=SLOWEST_S, limits=limits)
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def take(self, what: str, method: str, path: str, **request: Any) -> None:
        # httpx itself takes only ASCII in headers that are text.
        headers = {name: value.encode("latin-1") for name, value in request.pop("headers", {}).items()}
        try:
            response = self.client.request(method, path, headers=headers, **request)
        except httpx.HTTPError as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
            return
        self.statuses[response.status_code] += 1
        if response.status_code >= 500:
            self.wrong.append(f"{what}: {response.status_code} {response.text[:300]}")
        elif response.status_code >= 400 and method != "HEAD" and not response.text.startswith(NOT_HTTP):
            self.look_at(what, response)

    def look_at(self, what: str, response: httpx.Response) -> None:
        """An error must be OpenAI's object, and say nothing of our inside."""
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            self.wrong.append(f"{what}: {response.status_code} without OpenAI's object: {response.text[:300]}")
            return
        if found := INTERNALS.search(message):
            self.wrong.append(f"{what}: an answer with {found[0]!r}: {response.text[:300]}")


def send_all(cases: Iterable[Case], answers: Answers) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for job in [pool.submit(answers.take, *case[:3], **case[3]) for case in cases]:
            job.result()


def test_no_request_breaks_the_server(open_server: Deployment) -> None:
    answers = Answers(open_server)
    document = httpx.get(f"{open_server.url}/openapi.json", timeout=60).json()
    send_all(generated_requests(document, sorted(JSON_ROUTES)), answers)
    print(f"\n{answers.statuses.total()} generated requests: {dict(sorted(answers.statuses.items()))}")
    send_all(malformed_requests(), answers)
    print(f"{answers.statuses.total()} requests in all: {dict(sorted(answers.statuses.items()))}")
    assert answers.wrong == [], "\n".join(answers.wrong)
    assert answers.statuses.total() >= 5000


def test_afterwards_the_server_serves_as_before(open_server: Deployment) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
        "max_tokens": LONGEST_COMPLETION,
    }
    answer = httpx.post(f"{open_server.url}/v1/chat/completions", json=body, timeout=60)
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert not [line for line in open_server.stderr if "Traceback" in line]
