"""The load: streaming completions over HTTP, each answer checked, each chunk timed when it arrives."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.bench.errors import BenchError
from tests.bench.results import Load

REQUEST_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """One finished stream: readings of one clock in seconds, and the server's own count of tokens."""

    sent: float
    first: float
    ended: float
    prompt_tokens: int
    output_tokens: int


def request_body(model: str, prompt: str, output_tokens: int) -> dict[str, Any]:
    """A streaming request for exactly ``output_tokens`` tokens, greedy, with the usage in the last event."""
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def complete(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    """Send one request to the server at ``url`` and read its stream to the end.

    Raises:
        BenchError: the connection broke, a status other than 200, an error event, a stream that was cut, or another
            number of tokens than asked for.
    """
    try:
        return await _complete(session, url, body)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BenchError(f"a request to {url} was broken off: {error!r}") from error


async def _complete(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> Answer:
    first: float | None = None
    usage: dict[str, int] = {}
    sent = time.perf_counter()
    async with session.post(f"{url}/v1/completions", json=body) as response:
        if response.status != 200:
            raise BenchError(f"{url} answered {response.status}: {(await response.text())[:300]}")
        async for event in _events(response.content):
            if first is None and any(choice["text"] for choice in event["choices"]):
                first = time.perf_counter()
            usage = event.get("usage") or usage
    ended = time.perf_counter()
    if first is None or usage.get("completion_tokens") != body["max_tokens"]:
        raise BenchError(f"{url} sent the usage {usage} instead of {body['max_tokens']} completion tokens with text")
    return Answer(sent, first, ended, usage["prompt_tokens"], usage["completion_tokens"])


async def _events(content: aiohttp.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """The JSON values of a stream of server-sent events, which must end with ``[DONE]``.

    Reads to the very end, because a connection that is left earlier is closed and not used again.
    """
    done = False
    async for line in content:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            done = True
            continue
        event = json.loads(data)
        if "error" in event:
            raise BenchError(f"a stream carries an error: {event['error']}")
        yield event
    if not done:
        raise BenchError("a stream was cut before its end")


async def send_all(
    url: str,
    model: str,
    prompts: Sequence[str],
    concurrency: int,
    output_tokens: int,
    headers: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Send every prompt, ``concurrency`` at a time; the first request that fails ends them all.

    Raises:
        BenchError: as in ``complete``.
    """
    waiting = iter(prompts)
    answers: list[Answer] = []
    async with new_session(headers) as session:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(_work(session, url, model, waiting, output_tokens, answers))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return answers


async def _work(
    session: aiohttp.ClientSession,
    url: str,
    model: str,
    waiting: Iterator[str],
    output_tokens: int,
    answers: list[Answer],
) -> None:
    for prompt in waiting:
        answers.append(await complete(session, url, request_body(model, prompt, output_tokens)))


def new_session(headers: Mapping[str, str] | None = None) -> aiohttp.ClientSession:
    """A client without a limit on connections, which it keeps open between requests; it sends ``headers`` with each."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
        headers=headers,
    )


def summarise(concurrency: int, answers: Sequence[Answer]) -> Load:
    """The load that these answers are; it lasted from the first request sent to the last stream's end."""
    return Load(
        concurrency=concurrency,
        wall_s=max(answer.ended for answer in answers) - min(answer.sent for answer in answers),
        prompt_tokens=sum(answer.prompt_tokens for answer in answers),
        output_tokens=sum(answer.output_tokens for answer in answers),
        ttft_s=[round(answer.first - answer.sent, 5) for answer in answers],
        latency_s=[round(answer.ended - answer.sent, 5) for answer in answers],
    )


def merged(loads: Sequence[Load]) -> Load:
    """Several loads of one concurrency, one after another, as one; the time between them does not count."""
    return Load(
        concurrency=loads[0].concurrency,
        wall_s=sum(load.wall_s for load in loads),
        prompt_tokens=sum(load.prompt_tokens for load in loads),
        output_tokens=sum(load.output_tokens for load in loads),
        ttft_s=[seconds for load in loads for seconds in load.ttft_s],
        latency_s=[seconds for load in loads for seconds in load.latency_s],
    )


def most_at_once(answers: Sequence[Answer]) -> int:
    """How many of the answers were being written at the same moment: past their first token, before their end."""
    changes = [(answer.first, 1) for answer in answers] + [(answer.ended, -1) for answer in answers]
    running = most = 0
    for _, change in sorted(changes):
        running += change
        most = max(most, running)
    return most
