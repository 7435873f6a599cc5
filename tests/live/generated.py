"""Requests that schemathesis makes from the server's own OpenAPI document, and changed copies of them.

Making one from the chat schema takes up to a second, so a few are made for each route, by processes of their own, and
sent again with one field missing or replaced. The same ones in every run.
"""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import cycle
from typing import Any

from tests.live.malformed import JSON, VALUES, Case

COUNT = 16
"""Requests for each route and each of schemathesis' two modes: valid ones, and ones that are wrong on purpose."""
FIELDS = 12
"""Fields of each that are left out once and replaced once, at most."""
PROCESSES = 2


def generated_requests(document: dict[str, Any], routes: list[str]) -> Iterator[Case]:
    """The cases for POST to ``routes`` of the OpenAPI ``document``."""
    jobs = [(document, route, mode) for route in routes for mode in ("positive", "negative")]
    values = cycle(VALUES)
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        for (_, route, mode), requests in zip(jobs, pool.map(_make, jobs), strict=True):
            for request in requests:
                content = request.get("json", request.get("content", request.get("data")))
                yield f"{mode} {route} {str(content)[:200]}", "POST", route, request
                for body in _copies(request.get("json"), values):
                    yield f"{route} {str(body)[:200]}", "POST", route, {"content": _bytes(body), "headers": JSON}


def _make(job: tuple[dict[str, Any], str, str]) -> list[dict[str, Any]]:
    """The arguments of an HTTP client's ``request``, for one route and mode."""
    import hypothesis
    import schemathesis
    from schemathesis.generation import GenerationMode

    document, route, mode = job
    operation = schemathesis.openapi.from_dict(document)[route]["POST"]
    found: list[dict[str, Any]] = []

    @hypothesis.settings(
        max_examples=COUNT,
        phases=[hypothesis.Phase.generate],
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(operation.as_strategy(generation_mode=GenerationMode(mode)))
    def keep(case: Any) -> None:
        request = case.as_transport_kwargs(base_url="http://localhost")
        # Plain types: what schemathesis wraps them in need not be known to other processes.
        kept = {name: request[name] for name in ("content", "data") if name in request}
        if "json" in request:
            kept["json"] = json.loads(json.dumps(request["json"], default=str))
        found.append({**kept, "headers": {**(request.get("headers") or {})}})

    keep()
    return found


def _copies(body: Any, values: Iterator[Any]) -> Iterator[Any]:
    """``body`` without one of its fields, and with one replaced, field after field."""
    if not isinstance(body, dict):
        return
    for name in sorted(body)[:FIELDS]:
        rest = {key: value for key, value in body.items() if key != name}
        yield rest
        yield {**rest, name: next(values)}


def _bytes(body: Any) -> bytes:
    """As JSON, which can write half of a surrogate pair."""
    return json.dumps(body).encode()
