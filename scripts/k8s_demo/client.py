"""What runs in the client pod, with nothing but the standard library: one request, or streams until told to stop.

``request URL KEY [BODY]`` prints the status and the body as JSON. ``load URL KEY STREAMS BODY`` keeps so many streams
going, each over a connection of its own, until its standard input ends; then it prints what became of them as JSON.
"""

import http.client
import json
import sys
import threading
import urllib.error
import urllib.request

TIMEOUT_S = 120
DONE = b"data: [DONE]"


def main() -> None:
    """Do what the arguments say."""
    command, url, key, *rest = sys.argv[1:]
    if command == "request":
        print(json.dumps(request(url, key, *rest)))
    else:
        print(json.dumps(load(url, key, int(rest[0]), rest[1])))


def opened(url: str, key: str, body: str | None) -> http.client.HTTPResponse:
    """The answer, whose body is still to be read."""
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    sent = urllib.request.Request(url, None if body is None else body.encode(), headers)  # noqa: S310 (an http URL)
    answer: http.client.HTTPResponse = urllib.request.urlopen(sent, timeout=TIMEOUT_S)  # noqa: S310
    return answer


def request(url: str, key: str, body: str | None = None) -> dict[str, object]:
    """The status and the body of one answer; a status of 0 with the reason where no answer came."""
    try:
        with opened(url, key, body) as answer:
            return {"status": answer.status, "body": answer.read().decode()}
    except urllib.error.HTTPError as error:
        return {"status": error.code, "body": error.read().decode()}
    except (OSError, http.client.HTTPException) as error:
        return {"status": 0, "body": json.dumps(repr(error))}


def stream(url: str, key: str, body: str) -> str:
    """Read one stream to its end; returns what was wrong with it, or an empty text."""
    try:
        with opened(url, key, body) as answer:
            last = b""
            for line in answer:
                last = line.strip() or last
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read(200).decode(errors='replace').strip()}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    return "" if last == DONE else "the stream ended early"


def load(url: str, key: str, streams: int, body: str) -> dict[str, object]:
    """Keep ``streams`` streams going until standard input ends, and then let them finish."""
    stopping = threading.Event()
    outcomes: list[str] = []

    def run() -> None:
        outcomes.append(stream(url, key, body))
        while not stopping.is_set():
            outcomes.append(stream(url, key, body))

    threads = [threading.Thread(target=run) for _ in range(streams)]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    stopping.set()
    for thread in threads:
        thread.join()
    failures = [outcome for outcome in outcomes if outcome]
    return {"streams": len(outcomes), "failed": len(failures), "reasons": sorted(set(failures))}


if __name__ == "__main__":
    main()
