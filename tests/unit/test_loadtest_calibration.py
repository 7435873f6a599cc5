"""Prevents prompts of a wrong length, and refused requests, on servers other than vLLM."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from loadtest._ask import AskError, ask
from loadtest._calibration import Calibration, calibrate, first_model
from loadtest._words import WORDS
from loadtest._workload import Workload

TEMPLATE_TOKENS = 9
LONG_WORDS = WORDS[::5]
"""Words of two tokens in the server's vocabulary."""
CHAT, PLAIN = Workload(name="talk"), Workload(name="plain", api="completions")


def tokens(text: str) -> int:
    return sum(2 if word in LONG_WORDS else 1 for word in text.split())


class Server(BaseHTTPRequestHandler):
    """An OpenAI-compatible server with a word-wise tokeniser."""

    tokenize = True
    refused: tuple[str, ...] = ()
    usage = True
    models: object = {"data": [{"id": "m-1"}, {"id": "m-2"}]}

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_GET(self) -> None:
        self.answer(200, json.dumps(self.models).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body.get("prompt") or "".join(message["content"] for message in body["messages"])
        count = tokens(text) + (TEMPLATE_TOKENS if "messages" in body else 1)
        asked = {*body, *body.get("stream_options", ())}
        if self.path == "/tokenize" and self.tokenize:
            self.answer(200, json.dumps({"count": count}).encode(), "application/json")
        elif self.path == "/tokenize" or asked & set(self.refused):
            self.answer(404 if self.path == "/tokenize" else 400, b"{}", "application/json")
        else:
            said: dict[str, Any] = {"text": "a", "delta": {"content": "a"}, "index": 0, "finish_reason": "length"}
            events: list[dict[str, Any]] = [{"choices": [said]}]
            if self.usage:
                events.append({"choices": [], "usage": {"prompt_tokens": count, "completion_tokens": 1}})
            data = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
            self.answer(200, data.encode(), "text/event-stream")

    def answer(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def server(**values: object) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Made", (Server,), values)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def calibrated(**values: object) -> Calibration:
    with server(**values) as url:
        return calibrate(url, None, "m", [CHAT, PLAIN])


def test_with_tokenize_only_words_of_one_token_are_left_and_the_template_is_known() -> None:
    found = calibrated()
    assert found.source == "tokenize"
    assert found.words == tuple(word for word in WORDS if word not in LONG_WORDS)
    assert found.per_word == 1.0
    # The first word is one token; a plain prompt has a token at its beginning.
    assert found.overhead == {"talk": TEMPLATE_TOKENS + 1.0, "plain": 2.0}
    assert found.tokens_of("talk", found.words_for("talk", 500)) == 500


def test_without_tokenize_the_usage_of_two_requests_tells() -> None:
    found = calibrated(tokenize=False)
    assert found.source == "usage"
    assert found.words == WORDS
    assert found.per_word == pytest.approx(1 + 13 / 64)
    assert found.overhead == {"talk": TEMPLATE_TOKENS + 1.0, "plain": 2.0}
    assert found.tokens_of("plain", found.words_for("plain", 500)) == pytest.approx(500, abs=1)


def test_without_usage_lengths_are_guesses_and_not_promised() -> None:
    found = calibrated(tokenize=False, usage=False)
    assert found.source == "guess"
    assert found.tokens_of("talk", 100) is None


@pytest.mark.parametrize(
    ("refused", "ignore_eos", "continuous_usage"),
    [
        ((), True, True),
        (("continuous_usage_stats",), True, False),
        (("ignore_eos", "continuous_usage_stats"), False, False),
    ],
)
def test_extensions_that_a_server_refuses_are_not_sent(
    refused: tuple[str, ...], *, ignore_eos: bool, continuous_usage: bool
) -> None:
    found = calibrated(refused=refused)
    assert (found.ignore_eos, found.continuous_usage) == (ignore_eos, continuous_usage)
    assert found.source == "tokenize"


def test_a_server_that_is_not_there_is_no_error_of_the_calibration() -> None:
    assert calibrate("http://127.0.0.1:9", None, "m", [CHAT]) == Calibration()


def test_the_model_is_the_first_that_the_server_lists() -> None:
    with server() as url:
        assert first_model(url, None) == "m-1"
        assert first_model(f"{url}/v1/", None) == "m-1"


@pytest.mark.parametrize("models", [{}, {"data": []}, {"data": [{}]}, {"data": 5}])
def test_a_server_without_models_is_named(models: object) -> None:
    with server(models=models) as url, pytest.raises(AskError, match=r"^it lists no model$"):
        first_model(url, None)


def in_drops(handler: BaseHTTPRequestHandler) -> None:
    """An answer of three seconds, never silent for long."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        for _ in range(60):
            handler.wfile.write(b" ")
            time.sleep(0.05)
        handler.wfile.write(b"{}")


def test_an_answer_that_comes_in_drops_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # When it is asked, and at the first drop.
    monkeypatch.setattr("loadtest._ask.time", SimpleNamespace(monotonic=iter([0.0, 10.1]).__next__))
    with server(do_GET=in_drops) as url, pytest.raises(AskError, match=r"^no complete answer within 10 s$"):
        ask(url, None)


def test_what_cannot_be_asked_is_one_short_error() -> None:
    with pytest.raises(AskError, match="refused"):
        ask("http://127.0.0.1:9/", None)
    with server(models=[1]) as url, pytest.raises(AskError, match=r"^no JSON object$"):
        ask(f"{url}/v1/models", None)
    with server(tokenize=False) as url, pytest.raises(AskError, match=r"^HTTP 404$") as caught:
        ask(f"{url}/tokenize", None, {"prompt": "a"})
    assert caught.value.status == 404
