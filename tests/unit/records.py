"""Requests as observers are told of them, and one in which everything that a client can write is marked."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from deploy.gateway.authentication import KeysRequired
from deploy.gateway.body import ReadBody
from deploy.gateway.key_file import Key, new_token
from deploy.gateway.key_store import KeyStore
from deploy.gateway.request import Observer, RequestRecord
from deploy.gateway.request_scope import RequestScope
from deploy.gateway.usage_files import UsageLine
from tests.unit.asgi_calls import Upstream, call, scope_of
from tests.unit.key_gate import CHAT, LARGEST_BODY, entry, write

RECEIVED = 1000.0
RECEIVED_AT = datetime(2030, 1, 31, 10, 0, 0, 250_000, tzinfo=UTC)
MARK = "MARKED"


def key(name: str = "team", **fields: Any) -> Key:
    return Key(name=name, prefix="ms-00000000", hash="0" * 64, **fields)


def arrived(**fields: Any) -> RequestRecord:
    """A chat request of the key ``team`` that has just come."""
    known = {"id": "r-1", "method": "POST", "route": CHAT, "received": RECEIVED, "received_at": RECEIVED_AT}
    return RequestRecord(**{**known, "key": key(), "body": {"model": "demo"}, **fields})


def end(record: RequestRecord, **fields: Any) -> RequestRecord:
    """``record``, answered with 200 after two seconds unless ``fields`` say otherwise."""
    for name, value in {"status": 200, "complete": True, "ended": RECEIVED + 2, **fields}.items():
        setattr(record, name, value)
    return record


def served(**fields: Any) -> RequestRecord:
    """An ended request that went through every stage: 10 ms gateway, 20 queue, 70 prefill, 1900 decode."""
    stages = {"engine_entered": RECEIVED + 0.01, "queued_s": 0.02, "prefill_s": 0.07, "first_token": RECEIVED + 0.1}
    return end(arrived(), **{**stages, "prompt_tokens": 12, "completion_tokens": 64, **fields})


def usage_line(record: str = "one-1", **fields: Any) -> UsageLine:
    """A served request of the key ``team`` with 10 tokens of prompt and 5 of completion."""
    start: datetime = fields.get("start", RECEIVED_AT)
    known: dict[str, Any] = {"request_id": "r-1", "key": "team", "model": "demo", "route": "/v1/completions"}
    known |= {"start": start, "end": start + timedelta(seconds=1), "prompt_tokens": 10, "completion_tokens": 5}
    known |= {"status": 200, "hung_up": False, "complete": True, "final": True}
    return UsageLine(record=record, **known | fields)


def send_marked_requests(observer: Observer, directory: Path) -> list[str]:
    """Send requests with secrets in every place; returns what must not be found anywhere."""
    token = new_token()
    path = directory / "keys.yaml"
    write(path, entry(token))
    upstream = Upstream(chunks=[MARK.encode()])
    app = RequestScope(KeysRequired(ReadBody(upstream, LARGEST_BODY), KeyStore(path), open_metrics=False), (observer,))
    body = {"model": f"{MARK}\nmodel", "messages": [{"role": "user", "content": MARK}], "user": MARK}
    headers = {
        "authorization": f"Bearer {token}",
        "traceparent": f"00-{MARK}",
        "x-request-id": f"{MARK} with spaces",
        "user-agent": MARK,
    }
    assert call(app, scope_of(CHAT, headers), [json.dumps(body).encode()]).status == 200
    assert call(app, scope_of(CHAT, headers | {"authorization": f"Bearer {token}x"})).status == 401
    assert call(app, scope_of(f"/{MARK}", headers)).status == 404
    assert call(app, scope_of("/v1/models", headers, method=MARK)).status == 200
    assert len(upstream.scopes) == 2
    return [MARK, token, token[12:]]
