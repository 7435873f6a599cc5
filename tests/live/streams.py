"""Streaming requests whose fate a test can judge: how many tokens came, and whether the stream ended as promised."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx

from tests.live.deployment import eventually

STORY = "Write a long story about a lighthouse keeper."


@dataclass
class Stream:
    """One streamed completion: ``done`` when the server ended it properly, ``error`` when anything else did."""

    tokens: int = 0
    prompt_tokens: int = 0
    done: bool = False
    error: str = ""
    status: int = 0
    chunks: int = 0
    started: threading.Event = field(default_factory=threading.Event)

    def run(self, url: str, prompt: str, max_tokens: int, key: str = "none") -> None:
        """Ask for exactly ``max_tokens`` tokens and read them as they come."""
        body = {
            "model": "demo",
            "prompt": prompt,
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        try:
            # Loading the certificates takes threads seconds while engines have the cores; nothing here needs them.
            client = httpx.Client(headers={"authorization": f"Bearer {key}"}, timeout=120, verify=False)
            with client, client.stream("POST", f"{url}/v1/completions", json=body) as response:
                self.status = response.status_code
                if response.status_code != 200:
                    self.error = f"HTTP {response.status_code}: {response.read().decode()[:200]}"
                    return
                for line in response.iter_lines():
                    self._take(line)
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.started.set()

    def _take(self, line: str) -> None:
        if line == "data: [DONE]":
            self.done = True
        elif line.startswith("data: "):
            self.started.set()
            self.chunks += 1
            usage = json.loads(line.removeprefix("data: ")).get("usage")
            if usage:
                self.tokens, self.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]


def start_stream(url: str, prompt: str, max_tokens: int) -> tuple[Stream, threading.Thread]:
    """A stream in a thread of its own, with its first token received."""
    stream = Stream()
    thread = threading.Thread(target=stream.run, args=(url, prompt, max_tokens))
    thread.start()
    assert stream.started.wait(timeout=60)
    return stream, thread


class Load:
    """A steady number of streams, each followed at once by the next, until stopped."""

    def __init__(self, url: str, concurrency: int, tokens: int, key: str = "none") -> None:
        self.tokens = tokens
        self.streams: list[tuple[float, Stream]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(url, number, key)) for number in range(concurrency)]
        for thread in self._threads:
            thread.start()

    def _run(self, url: str, number: int, key: str) -> None:
        while not self._stop.is_set():
            stream = Stream()
            self.streams.append((time.monotonic(), stream))
            stream.run(url, f"{number} {len(self.streams)} {STORY}", self.tokens, key)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=180)

    def finish_more(self, count: int) -> None:
        """Wait until ``count`` more streams have come to their end, whatever it was."""
        goal = self._finished() + count
        eventually(lambda: self._finished() >= goal, 180, f"{count} more streams end")

    def in_flight(self) -> list[Stream]:
        """The streams that have not come to their end."""
        return [stream for _, stream in self.streams if not (stream.done or stream.error)]

    def _finished(self) -> int:
        return sum(stream.done or bool(stream.error) for _, stream in self.streams)

    def broken(self, since: float = 0.0) -> list[str]:
        """What went wrong with each stream started after ``since`` that did not bring every token and a proper end."""
        return [
            stream.error or f"ended early after {stream.tokens} tokens"
            for start, stream in self.streams
            if start >= since and not (stream.done and stream.tokens == self.tokens and not stream.error)
        ]


@contextmanager
def load(url: str, concurrency: int, tokens: int, key: str = "none") -> Iterator[Load]:
    """``concurrency`` streams at a time of ``tokens`` tokens each; the last ones are read to their end."""
    running = Load(url, concurrency, tokens, key)
    try:
        yield running
    finally:
        running.stop()
