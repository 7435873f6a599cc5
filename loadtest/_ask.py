"""Small questions to the server before a run: JSON over HTTP, without redirects and proxies."""

import json
import time
import urllib.error
import urllib.request
from http.client import HTTPResponse
from typing import Any

from loadtest._server_scraper import OPENER

TIMEOUT_S = 10.0
LARGEST_ANSWER = 16 << 20


class AskError(Exception):
    """No usable answer; the text is short. ``status`` is 0 where no HTTP answer came."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


def ask(url: str, api_key: str | None, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON object at a URL: GET, or POST where there is a body. Raises AskError.

    An answer that is not complete after ``TIMEOUT_S`` is given up with the next bytes, or after as long without any.
    """
    deadline = time.monotonic() + TIMEOUT_S
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {api_key}"} if api_key else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)  # noqa: S310 (the host was checked)
    try:
        with OPENER.open(request, timeout=TIMEOUT_S) as answer:
            values = json.loads(_read(answer, deadline))
    except urllib.error.HTTPError as error:
        raise AskError(f"HTTP {error.code}", error.code) from None
    except (OSError, ValueError, RecursionError) as error:
        # HTTPException is a ValueError's cousin only by name: what is no HTTP ends here too.
        raise AskError(" ".join(str(getattr(error, "reason", error)).split())[:200]) from None
    except Exception as error:
        raise AskError(type(error).__name__) from None
    if not isinstance(values, dict):
        raise AskError("no JSON object")
    return values


def _read(answer: HTTPResponse, deadline: float) -> bytes:
    """The body, up to ``LARGEST_ANSWER``. A timeout of the socket bounds one read, so that drops would never end."""
    data = bytearray()
    while len(data) < LARGEST_ANSWER and (part := answer.read1(LARGEST_ANSWER - len(data))):
        data += part
        if time.monotonic() > deadline:
            raise TimeoutError(f"no complete answer within {TIMEOUT_S:g} s")
    return bytes(data)
