"""Prevents: a request, however wrong, that crashes, hangs or unmasks the server.

Requests come from two places: schemathesis makes them from the server's own OpenAPI schema, valid and deliberately
invalid ones; others are malformed by hand. How many there are, and how long each may take, is bounded.
"""

import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis.generation import GenerationMode

from deploy.gateway.routes import JSON_ROUTES
from tests.live.deployment import Deployment, serving
from tests.live.malformed import malformed_requests

pytestmark = pytest.mark.live
GENERATED = 400
"""Requests for each route and each of the two modes."""
AT_ONCE = 8
SLOWEST_S = 120
LONGEST_COMPLETION = 4
"""Tokens of a completion whose length the request leaves open, so that a valid request ends soon."""
INTERNALS = re.compile(
    r"Traceback|\.py\b|site-packages|/home/|/root/|/tmp/|pydantic|0x[0-9a-f]{8}|<class|object at|asyncio|\bray\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def open_server() -> Iterator[Deployment]:
    bounded = f'override_generation_config={{"max_new_tokens": {LONGEST_COMPLETION}}}'
    with serving("--engine", bounded, "--limits.max-tokens", "16") as server:
        yield server


class Answers:
    """What came back, counted, and everything that should not have."""

    def __init__(self, server: Deployment) -> None:
        limits = httpx.Limits(max_connections=AT_ONCE)
        self.client = httpx.Client(base_url=server.url, timeout=SLOWEST_S, limits=limits)
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def take(self, what: str, method: str, path: str, **request: Any) -> None:
        try:
            response = self.client.request(method, path, **request)
        except httpx.HTTPError as error:
            self.wrong.append(f"{what}: {type(error).__name__}: {error}")
            return
        self.statuses[response.status_code] += 1
        if response.status_code >= 500:
            self.wrong.append(f"{what}: {response.status_code} {response.text[:300]}")
        elif response.status_code >= 400 and (found := INTERNALS.search(response.json()["error"]["message"])):
            self.wrong.append(f"{what}: an answer with {found[0]!r}: {response.text[:300]}")


def generated(server: Deployment, route: str, mode: GenerationMode, answers: Answers) -> None:
    """Send what schemathesis makes of the route's schema; the same requests in every run."""
    document = httpx.get(f"{server.url}/openapi.json", timeout=60).json()
    operation = schemathesis.openapi.from_dict(document)[route]["POST"]

    @hypothesis.settings(
        max_examples=GENERATED,
        phases=[hypothesis.Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        request = case.as_transport_kwargs(base_url=server.url)
        content = {name: request[name] for name in ("json", "content", "data") if name in request}
        answers.take(
            f"{mode.value} {route} {str(content)[:300]}", "POST", route, headers=request.get("headers"), **content
        )

    send()


def test_no_request_that_the_schema_leads_to_breaks_the_server(open_server: Deployment) -> None:
    answers = Answers(open_server)
    jobs = [(route, mode) for route in sorted(JSON_ROUTES) for mode in GenerationMode]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for job in [pool.submit(generated, open_server, *job, answers) for job in jobs]:
            job.result()
    print(f"\n{answers.statuses.total()} generated requests: {dict(sorted(answers.statuses.items()))}")
    assert answers.wrong == []


def test_no_malformed_request_breaks_the_server(open_server: Deployment) -> None:
    answers = Answers(open_server)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for job in [pool.submit(answers.take, *case[:3], **case[3]) for case in malformed_requests()]:
            job.result()
    print(f"\n{answers.statuses.total()} malformed requests: {dict(sorted(answers.statuses.items()))}")
    assert answers.wrong == []


def test_afterwards_the_server_serves_as_before(open_server: Deployment) -> None:
    body = {
        "model": "demo",
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "temperature": 0,
    }
    answer = httpx.post(f"{open_server.url}/v1/chat/completions", json=body | {"max_tokens": 12}, timeout=60)
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert not [line for line in open_server.stderr if "Traceback" in line]
