"""Requests that are wrong by hand: bodies that no schema describes, values at the edges, odd paths and headers."""

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
JSON = {"content-type": "application/json"}
USER = [{"role": "user", "content": "Hi"}]
BASE: dict[str, dict[str, Any]] = {
    CHAT: {"model": "demo", "messages": USER, "max_tokens": 2},
    COMPLETIONS: {"model": "demo", "prompt": "Hi", "max_tokens": 2},
    RESPONSES: {"model": "demo", "input": "Hi", "max_output_tokens": 16},
    MESSAGES: {"model": "demo", "messages": USER, "max_tokens": 2},
}
Case = tuple[str, str, str, dict[str, Any]]
"""What it is, the method, the path, and the arguments of an HTTP client's ``request``."""

BODIES: dict[str, bytes] = {
    "nothing": b"",
    "a space": b" ",
    "half an object": b'{"model": "demo", "messages": [',
    "an array": b"[]",
    "a number": b"1",
    "null": b"null",
    "a string": b'"demo"',
    "not JSON": b"model=demo&prompt=Hi",
    "no UTF-8": b'{"model": "demo", "prompt": "\xff\xfe"}',
    "half a surrogate": b'{"model": "demo", "prompt": "\\ud800", "messages": [{"role": "user", "content": "\\udfff"}]}',
    "a null byte": b'{"model": "demo", "prompt": "a\\u0000b", "max_tokens": 2}',
    "a byte order mark": b'\xef\xbb\xbf{"model": "demo", "prompt": "Hi", "max_tokens": 2}',
    "deep arrays": b"[" * 50_000 + b"]" * 50_000,
    "a deep object": b'{"a":' * 20_000 + b"1" + b"}" * 20_000,
    "a deep field": b'{"model": "demo", "prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "the same field twice": b'{"model": "demo", "model": "other", "prompt": "Hi", "prompt": "Ho", "max_tokens": 2}',
    "an endless number": b'{"model": "demo", "prompt": "Hi", "max_tokens": ' + b"9" * 5000 + b"}",
    "NaN": b'{"model": "demo", "prompt": "Hi", "temperature": NaN, "max_tokens": 2}',
    "infinity": b'{"model": "demo", "prompt": "Hi", "temperature": -Infinity, "max_tokens": 2}',
    "a huge exponent": b'{"model": "demo", "prompt": "Hi", "temperature": 1e999, "max_tokens": 2}',
    "gzip that is none": b"\x1f\x8b\x08\x00nonsense",
    "4.5 MB": b'{"model": "demo", "prompt": "' + b"x" * 4_500_000 + b'"}',
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    10**30,
    -(2**63),
    1e308,
    "",
    "x",
    "9" * 400,
    "\u0000",
    "🜁" * 50,
    [],
    [None],
    [[]],
    [[1, -1]],
    [{}],
    {},
    {"a": {"b": []}},
    {"type": "nonsense"},
    [{"role": "nobody", "content": "x"}],
    [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}],
)
FIELDS = {
    CHAT: """
        model messages max_tokens max_completion_tokens n stream stream_options temperature top_p top_k min_p seed stop
        logprobs top_logprobs logit_bias frequency_penalty repetition_penalty response_format structured_outputs tools
        tool_choice priority prompt_logprobs ignore_eos min_tokens stop_token_ids bad_words allowed_token_ids
        chat_template chat_template_kwargs documents add_generation_prompt continue_final_message echo request_id
        cache_salt vllm_xargs kv_transfer_params use_beam_search length_penalty truncate_prompt_tokens safe_prompt
        reasoning_effort user media_io_kwargs
    """,
    COMPLETIONS: """
        model prompt suffix max_tokens n best_of stream stream_options temperature top_p top_k seed stop logprobs
        logit_bias echo presence_penalty response_format structured_outputs priority prompt_logprobs prompt_embeds
        min_tokens stop_token_ids allowed_token_ids use_beam_search truncate_prompt_tokens request_id cache_salt
        return_token_ids kv_transfer_params
    """,
    RESPONSES: """
        model input instructions max_output_tokens stream temperature top_p tools tool_choice text reasoning background
        store previous_response_id include metadata truncation top_logprobs service_tier max_tool_calls priority
        request_id
    """,
    MESSAGES: "model messages system max_tokens stream temperature top_p top_k stop_sequences tools metadata",
}
PATHS = (
    "/",
    "//",
    "/v1",
    "/v1/",
    "/v1/chat",
    "/v1/models/nonsense",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1/responses/resp_nonsense",
    "/%00",
    "/%ff",
    "/v1/chat/completions/",
    "/v1/chat/completions%2f",
    "/.env",
    "/metrics/../docs",
    "/" + "a" * 4000,
    "/?" + "q=1&" * 900,
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "NONSENSE")
HEADERS: tuple[dict[str, str], ...] = (
    {"content-type": "text/plain"},
    {"content-type": "application/json; charset=utf-16"},
    {"content-type": "multipart/form-data"},
    {"content-encoding": "gzip", **JSON},
    {"expect": "100-continue", **JSON},
    {"transfer-encoding": "chunked", **JSON},
    {"x-request-id": "a b\tc" * 30, **JSON},
    {"x-request-id": "é".encode().decode("latin-1"), **JSON},
    {"authorization": "Bearer " + "x" * 3000, **JSON},
    {"authorization": "Basic nonsense", **JSON},
    {"traceparent": "00-nonsense", **JSON},
    {"accept": "image/png", **JSON},
    {"x-filler": "x" * 9000, **JSON},
    {"host": "a b", **JSON},
)


def malformed_requests() -> Iterator[Case]:
    """Every case, about 3,000 of them."""
    for (name, body), path in product(BODIES.items(), BASE):
        yield name, "POST", path, {"content": body, "headers": JSON}
    for path, base in BASE.items():
        for field, value in product(FIELDS[path].split(), VALUES):
            body = json.dumps(base | {field: value}).encode()
            yield f"{path} with {field} {str(value)[:60]!r}", "POST", path, {"content": body, "headers": JSON}
        for field in base:
            body = json.dumps({name: value for name, value in base.items() if name != field}).encode()
            yield f"{path} without {field}", "POST", path, {"content": body, "headers": JSON}
        for headers in HEADERS:
            yield (
                f"{path} with {str(headers)[:80]}",
                "POST",
                path,
                {"content": json.dumps(base).encode(), "headers": headers},
            )
    for path, method in product((*PATHS, *BASE, "/health", "/tokenize", "/v1/models"), METHODS):
        yield f"{method} {path[:60]}", method, path, {}
