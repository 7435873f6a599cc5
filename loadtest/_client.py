"""The client that measures: sends one streamed completion and records what a user would have felt."""

import gc
import json
from typing import Any

from loadtest._answer import Answer, RequestError
from loadtest._connection import Endpoint, Pool
from loadtest._exchange import Exchange
from loadtest._request import Record, RequestSpec

PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}


class Client:
    """Sends requests to one server over kept connections. Safe among greenlets and threads."""

    def __init__(
        self, base_url: str, api_key: str | None = None, timeout_s: float = 600, connect_timeout_s: float = 10
    ) -> None:
        """``timeout_s`` bounds a whole request and every read within it. Raises ValueError for a wrong URL or key."""
        endpoint = Endpoint.parse(base_url)
        check_key(api_key)
        self._timeout_s = timeout_s
        self._pool = Pool(endpoint, connect_timeout_s)
        self._path = endpoint.path
        headers = {
            "host": endpoint.authority,
            "user-agent": "mistral-serve-loadtest",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "content-type": "application/json",
        } | ({"authorization": f"Bearer {api_key}"} if api_key else {})
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())

    def send(
        self,
        spec: RequestSpec,
        *,
        intended: float | None = None,
        worker: int = 0,
        index: int = 0,
        keep_text: bool = False,
        continuous_usage: bool = False,
    ) -> Record:
        """Send it and read the answer. Whatever the server or the network does ends up in the record, never raised.

        ``intended`` is a ``perf_counter`` time. ``continuous_usage`` asks for token counts in every chunk, as vLLM
        offers: only then is the inter-token latency right where a chunk holds several tokens.
        """
        request = self._request(spec, continuous_usage=continuous_usage)
        exchange = Exchange(self._pool, Answer(spec, keep_text=keep_text), self._timeout_s)
        failure = None
        try:
            exchange.run(request)
        except RequestError as error:
            failure = error
        return _record(spec, exchange, failure, intended=intended, worker=worker, index=index)

    def _request(self, spec: RequestSpec, *, continuous_usage: bool) -> bytes:
        asked = {"include_usage": True} | ({"continuous_usage_stats": True} if continuous_usage else {})
        body: dict[str, Any] = {"model": spec.model, "max_tokens": spec.max_tokens} | spec.extra
        body |= {"messages": spec.messages} if spec.api == "chat" else {"prompt": spec.prompt}
        payload = json.dumps(body | {"stream": True, "stream_options": asked}).encode()
        head = f"POST {self._path}{PATHS[spec.api]} HTTP/1.1\r\n{self._headers}content-length: {len(payload)}\r\n\r\n"
        return head.encode() + payload

    def close(self) -> None:
        """Close the idle connections; those in use are closed when their answer ends."""
        self._pool.close()


def check_key(api_key: str | None) -> None:
    """Raises ValueError, whose text does not hold the key, for one that no header can carry."""
    if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
        raise ValueError("The API key holds characters that no HTTP header can carry; check for a line break in it.")


def _record(
    spec: RequestSpec,
    exchange: Exchange,
    failure: RequestError | None,
    *,
    intended: float | None,
    worker: int,
    index: int,
) -> Record:
    answer, response = exchange.answer, exchange.response
    return Record(
        scenario=spec.scenario,
        api=spec.api,
        worker=worker,
        index=index,
        intended=intended,
        sent=exchange.sent,
        headers=exchange.headers_at,
        first=answer.first,
        last=answer.last,
        ended=exchange.ended,
        status=response.status,
        error=None if failure is None else failure.kind,
        detail="" if failure is None else failure.detail,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        token_source=answer.token_source,
        gaps=answer.gaps,
        first_chunk_tokens=answer.first_chunk_tokens,
        max_tokens=spec.max_tokens,
        expected_prompt_tokens=spec.expected_prompt_tokens,
        cached_tokens=answer.cached_tokens,
        request_id=(response.headers.get("x-request-id") or answer.id)[:128],
        text=answer.text,
    )


def settle_memory() -> None:
    """Call once before measuring: takes what exists out of the garbage collector's walks.

    Locust and its imports are some 10^5 objects. Walking them all is a pause in which no chunk is read, nothing sent.
    """
    gc.collect()
    gc.freeze()
