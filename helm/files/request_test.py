"""What `helm test` runs inside the cluster: a refusal without a key, the list of models, and a streamed completion."""

import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from typing import Any

TIMEOUT_S = 120


def call(path: str, key: str | None, body: dict[str, Any] | None = None) -> tuple[int, str]:
    """Send one request; returns the status and the whole answer. The server's certificate is not checked."""
    headers = {"content-type": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(os.environ["BASE_URL"] + path, data, headers)  # noqa: S310 (the chart's own URL)
    context = ssl._create_unverified_context()  # noqa: S323 (it is made for the public name, not for the Service's)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:  # noqa: S310
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def expect(what: str, found: object, wanted: object) -> None:
    """Print the check; end with 1 when it does not hold."""
    print(f"{what}: {found}")
    if found != wanted:
        sys.exit(f"failed: {what} should be {wanted}")


def main() -> None:
    """Run the checks that the environment allows: BASE_URL, KEYS_REQUIRED and API_KEY."""
    key = os.environ.get("API_KEY")
    if os.environ["KEYS_REQUIRED"] == "true":
        expect("status without a key", call("/v1/models", None)[0], 401)
        if key is None:
            print("test.existingSecret is not set: nothing that needs a key is tested")
            return
    status, text = call("/v1/models", key)
    expect("status of the list of models", status, 200)
    model = json.loads(text)["data"][0]["id"]
    body = {"model": model, "prompt": "The capital of France is", "max_tokens": 8, "stream": True}
    status, text = call("/v1/completions", key, body)
    expect("status of a streamed completion", status, 200)
    events = [line for line in text.splitlines() if line.startswith("data: ")]
    expect("last event of the stream", events[-1] if events else None, "data: [DONE]")
    print(f"{model} answered with {len(events) - 1} events")


if __name__ == "__main__":
    main()
