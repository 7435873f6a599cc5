"""Every error that the gateway answers with: OpenAI's error object, and the names in it.

OpenAI's reference of error codes: https://platform.openai.com/docs/guides/error-codes
"""

import json
from dataclasses import dataclass

from deploy.gateway.asgi import Scope, Send, path_of

INVALID_REQUEST = "invalid_request_error"
PERMISSION = "permission_error"
RATE_LIMIT = "rate_limit_error"
SERVER = "server_error"

INVALID_API_KEY = "invalid_api_key"
MODEL_NOT_ALLOWED = "model_not_allowed"
MODEL_NOT_FOUND = "model_not_found"
ROUTE_CLOSED = "route_closed"

RETRY_AFTER = b"retry-after"
RETRY_AFTER_UNAVAILABLE_S = 5
"""After a 503 about which nothing else is known."""

CHALLENGE = (b"www-authenticate", b'Bearer realm="mistral-serve"')
"""What RFC 9110 (section 11.6.1) asks of every 401."""

_ANTHROPIC, _RESPONSES = "/v1/messages", "/v1/responses"


@dataclass(frozen=True)
class ApiError:
    """One error answer. ``message`` is for a person, ``code`` for a program; ``param`` names the wrong parameter.

    ``retry_after``: seconds after which the same request may succeed.
    """

    status: int
    type: str
    code: str | None
    message: str
    param: str | None = None
    retry_after: int | None = None

    def body(self, path: str) -> bytes:
        """The answer's JSON; on Anthropic's endpoints with the ``type`` that Anthropic's clients look for."""
        envelope = {"type": "error"} if path.startswith(_ANTHROPIC) else {}
        error = {"message": self.message, "type": self.type, "param": self.param, "code": self.code}
        return json.dumps(envelope | {"error": error}).encode()

    def event(self, path: str) -> bytes:
        """The error as the last of a stream's server-sent events, in the form of the API that ``path`` belongs to.

        OpenAI's completions and chats end with the word ``[DONE]``; the streams of Anthropic's messages and OpenAI's
        responses name every event, as their references say.
        """
        if path.startswith(_ANTHROPIC):
            return b"event: error\ndata: " + self.body(path) + b"\n\n"
        if path.startswith(_RESPONSES):
            error = {"type": "error", "code": self.code, "message": self.message, "param": self.param}
            return b"event: error\ndata: " + json.dumps(error).encode() + b"\n\n"
        return b"data: " + self.body(path) + b"\n\ndata: [DONE]\n\n"


_BY_STATUS = {
    error.status: error
    for error in (
        ApiError(400, INVALID_REQUEST, None, "The request is malformed."),
        ApiError(401, INVALID_REQUEST, INVALID_API_KEY, "The API key is missing or not valid."),
        ApiError(403, PERMISSION, "forbidden", "This is not allowed."),
        ApiError(404, INVALID_REQUEST, "not_found", "There is nothing at this path."),
        ApiError(405, INVALID_REQUEST, "method_not_allowed", "This path does not take this method."),
        ApiError(408, INVALID_REQUEST, "timeout", "The request took too long."),
        ApiError(413, INVALID_REQUEST, "request_too_large", "The request is too large."),
        ApiError(431, INVALID_REQUEST, "headers_too_large", "The request's headers are too large."),
        ApiError(415, INVALID_REQUEST, "unsupported_media_type", "Send the request as application/json."),
        ApiError(429, RATE_LIMIT, "rate_limit_exceeded", "Too many requests. Send it again later."),
        ApiError(500, SERVER, "internal_error", "The server failed on this request."),
        ApiError(501, SERVER, "not_implemented", "The served model cannot do this."),
        ApiError(
            503,
            SERVER,
            "unavailable",
            "This replica cannot take the request now. Send it again later.",
            retry_after=RETRY_AFTER_UNAVAILABLE_S,
        ),
        ApiError(504, SERVER, "timeout", "The replica did not answer in time. Send the request again."),
    )
}


def of_status(status: int) -> ApiError:
    """The error of a status (400 to 599) about which nothing else is known."""
    general = _BY_STATUS[400 if status < 500 else 500]
    return _BY_STATUS.get(status) or ApiError(status, general.type, None, general.message)


class Refused(Exception):
    """Ends a request with an error that the gateway found."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.message)
        self.error = error


def no_key(message: str) -> Refused:
    """401: no key, or none that opens anything."""
    return Refused(ApiError(401, INVALID_REQUEST, INVALID_API_KEY, message))


def route_closed(path: str) -> Refused:
    """403: the route is there but serves nobody."""
    return Refused(ApiError(403, PERMISSION, ROUTE_CLOSED, f"{path} is closed on this server."))


def route_not_found() -> Refused:
    """404: no route of this server."""
    return Refused(of_status(404))


def model_not_allowed(message: str) -> Refused:
    """403: the key is valid, but not for this model."""
    return Refused(ApiError(403, PERMISSION, MODEL_NOT_ALLOWED, message, "model"))


def not_json() -> Refused:
    """400: the body is no JSON object."""
    return Refused(ApiError(400, INVALID_REQUEST, None, "The request's body is not a JSON object."))


def too_large(limit: int) -> Refused:
    """413: the body has more than ``limit`` bytes."""
    return Refused(ApiError(413, INVALID_REQUEST, "request_too_large", f"The request is larger than {limit} bytes."))


async def answer(
    error: ApiError, scope: Scope, send: Send, headers: tuple[tuple[bytes, bytes], ...] | None = None
) -> None:
    """Send ``error`` as the whole response; ``headers`` besides the content's own, of which a ``retry-after`` wins."""
    body = error.body(path_of(scope))
    if headers is None:
        headers = (CHALLENGE,) if error.status == 401 else ()
    if error.retry_after is not None and all(name != RETRY_AFTER for name, _ in headers):
        headers = (*headers, (RETRY_AFTER, str(error.retry_after).encode()))
    content = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": error.status, "headers": [*headers, *content]})
    await send({"type": "http.response.body", "body": body})
