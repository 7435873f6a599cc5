"""Prevents: a client's request id that breaks a log line or a header, and an answer without an id or with two."""

import re
import uuid

from hypothesis import example, given
from hypothesis import strategies as st

from deploy.gateway.asgi import Scope
from deploy.gateway.request import RequestRecord
from deploy.gateway.request_scope import REQUEST_ID, RequestScope
from tests.unit.asgi_calls import Upstream, call, scope_of
from tests.unit.key_gate import CHAT

WELL_FORMED = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")
NEARLY = st.text(alphabet="aZ09._-\r\n\t\0 é'\"%{}", max_size=140).map(lambda text: text.encode("latin-1"))


def ids_of(pairs: list[tuple[bytes, bytes]]) -> list[bytes]:
    return [value for name, value in pairs if name == REQUEST_ID]


def is_ours(value: bytes) -> bool:
    return str(uuid.UUID(value.decode())) == value.decode()


@given(st.lists(st.binary(max_size=140) | NEARLY, max_size=3))
@example([b"a" * 128])
@example([b"a" * 129])
@example([b"a\n"])
@example([b""])
@example([b"first", b"second"])
@example([b"b d", b"good"])
def test_one_well_formed_id_goes_through_everything_whatever_the_client_sends(sent: list[bytes]) -> None:
    upstream, seen = Upstream(headers={"x-request-id": "the app's own"}), list[RequestRecord]()
    scope: Scope = scope_of(CHAT)
    scope["headers"] = [(REQUEST_ID, value) for value in sent]
    response = call(RequestScope(upstream, (seen.append,)), scope)
    (answered,) = ids_of(response.messages[0]["headers"])
    assert ids_of(upstream.scopes[0]["headers"]) == [answered] == [seen[-1].id.encode()]
    # Of several the first counts.
    if sent and WELL_FORMED.match(sent[0]):
        assert answered == sent[0]
    else:
        assert is_ours(answered)


def test_requests_without_an_id_get_different_ones() -> None:
    app = RequestScope(Upstream())
    assert len({call(app, scope_of(CHAT)).headers["x-request-id"] for _ in range(50)}) == 50
