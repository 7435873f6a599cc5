"""Streaming requests whose fate a test can judge: how many tokens came, and whether the stream ended as promised."""

import json
import threading
from dataclasses import dataclass, field

import httpx


@dataclass
class Stream:
    """One streamed completion: ``done`` when the server ended it properly, ``error`` when anything else did."""

    tokens: int = 0
    done: bool = False
    error: str = ""
    status: int = 0
    started: threading.Event = field(default_factory=threading.Event)

    def run(self, url: str, prompt: str, max_tokens: int) -> None:
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
            with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=120, verify=False) as response:
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
            usage = json.loads(line.removeprefix("data: ")).get("usage")
            if usage:
                self.tokens = usage["completion_tokens"]


def start_stream(url: str, prompt: str, max_tokens: int) -> tuple[Stream, threading.Thread]:
    """A stream in a thread of its own, with its first token received."""
    stream = Stream()
    thread = threading.Thread(target=stream.run, args=(url, prompt, max_tokens))
    thread.start()
    assert stream.started.wait(timeout=60)
    return stream, thread
