"""HTTP requests of this program to its own servers: straight to them, whatever proxy the environment names."""

import ssl
import urllib.request
from http.client import HTTPException
from typing import Any

FAILURES = (OSError, HTTPException)
"""What ``ask`` raises."""


def ask(request: str | urllib.request.Request, timeout_s: float | None = None) -> Any:
    """Send a request, given by itself or as a URL, and return its answer, to be read and closed like a file.

    A certificate may bear any name: whom the server reaches when it asks itself, it knows.

    Raises:
        OSError: nobody answers, not within ``timeout_s`` seconds, or with an error status (``urllib.error.HTTPError``).
        HTTPException: the answer is not HTTP.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    return opener.open(request, timeout=timeout_s)
