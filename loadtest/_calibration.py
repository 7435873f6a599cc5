"""How long a prompt of so many words is for the server's tokeniser, and which extensions the server takes.

Asked of the server's ``/tokenize`` where it has one (vLLM), else of the ``usage`` of two short requests. With
``/tokenize``, words that are not one token each are left out, so that every length is exact. Without, a length is
exact where a word proves to be one token on average, and otherwise right to within some percent.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from loadtest._ask import AskError, ask
from loadtest._client import Client
from loadtest._request import Api, ErrorKind, Record, RequestSpec
from loadtest._words import FIRST, WORDS
from loadtest._workload import Workload

PROBE_TIMEOUT_S = 30.0
SAMPLE_WORDS = 64
GUESS_PER_WORD = 1.0
FEWEST_WORDS = 32
"""Fewer single tokens than these make too monotonous a text: then the length is calibrated from ``usage``."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """Tokens of a prompt: ``overhead[workload]`` for the template and the first word, ``per_word`` for each further."""

    words: tuple[str, ...] = WORDS
    overhead: dict[str, float] = field(default_factory=dict)
    per_word: float = GUESS_PER_WORD
    source: Literal["tokenize", "usage", "guess"] = "guess"
    ignore_eos: bool = True
    continuous_usage: bool = True

    def words_for(self, workload: str, tokens: int) -> int:
        """Words after the first one that make a prompt of so many tokens; negative where that is not possible."""
        return round((tokens - self.overhead.get(workload, 1.0)) / self.per_word)

    def tokens_of(self, workload: str, words: int) -> int | None:
        """Tokens of a prompt with so many words after the first one; None where nobody knows."""
        return None if self.source == "guess" else round(self.overhead.get(workload, 1.0) + self.per_word * words)


def first_model(host: str, api_key: str | None) -> str:
    """The first model that the server lists. Raises AskError."""
    values = ask(f"{_base(host)}/v1/models", api_key)
    try:
        return str(values["data"][0]["id"])
    except (KeyError, IndexError, TypeError):
        raise AskError("it lists no model") from None


def calibrate(host: str, api_key: str | None, model: str, workloads: Sequence[Workload]) -> Calibration:
    """Ask the server. A server that does not answer is no error here: the run itself will show it."""
    client = Client(host, api_key, PROBE_TIMEOUT_S)
    try:
        calibration = _extensions(client, model, Calibration())
        if calibration is None:
            return Calibration()
        try:
            return _tokenize(f"{_base(host)}/tokenize", api_key, model, workloads, calibration)
        except AskError:
            return _usage(client, model, workloads, calibration)
    finally:
        client.close()


def _base(host: str) -> str:
    return host.rstrip("/").removesuffix("/v1").rstrip("/")


def _extensions(client: Client, model: str, calibration: Calibration) -> Calibration | None:
    """Leave out, one after the other, what the server refuses. None where it answers nothing at all."""
    for ignore_eos, continuous_usage in ((True, True), (True, False), (False, False)):
        tried = replace(calibration, ignore_eos=ignore_eos, continuous_usage=continuous_usage)
        record = _send(client, model, FIRST, tried)
        if record.status not in (400, 422):
            return tried if record.status else None
    return calibration


def _send(client: Client, model: str, text: str, calibration: Calibration, workload: Workload | None = None) -> Record:
    api: Api = "completions" if workload is None else workload.api
    extra = {"ignore_eos": True} if calibration.ignore_eos else {}
    messages = messages_of(workload, text) if workload is not None and api == "chat" else None
    spec = RequestSpec(api, model, "calibration", messages, text if messages is None else None, 1, extra)
    record = client.send(spec, continuous_usage=calibration.continuous_usage)
    if record.status == 404 and workload is None:
        # A server without completions has chat.
        return _send(client, model, text, calibration, Workload(name="calibration"))
    return record


def messages_of(workload: Workload, text: str) -> list[dict[str, str]]:
    """The messages of a chat's first turn."""
    system = [] if workload.system is None else [{"role": "system", "content": workload.system}]
    return [*system, {"role": "user", "content": text}]


def _tokenize(
    url: str, api_key: str | None, model: str, workloads: Sequence[Workload], calibration: Calibration
) -> Calibration:
    def count(body: dict[str, Any]) -> int:
        answer = ask(url, api_key, {"model": model, **body}).get("count")
        if not isinstance(answer, int):
            raise AskError("no count")
        return answer

    def text(words: Sequence[str]) -> int:
        return count({"prompt": " ".join([FIRST, *words])})

    base = text(())
    words = tuple(_single(WORDS, base, text))
    if len(words) < FEWEST_WORDS:
        raise AskError("too few words are one token")
    overhead = {
        workload.name: float(
            base
            if workload.api == "completions"
            else count({"messages": messages_of(workload, FIRST), "add_generation_prompt": True})
        )
        for workload in workloads
    }
    return replace(calibration, words=words, overhead=overhead, per_word=1.0, source="tokenize")


def _single(words: Sequence[str], base: int, count: Any) -> Iterator[str]:
    """The words that are one token each: all of them where together they are as many tokens, else by halves."""
    if count(words) == base + len(words):
        yield from words
    elif len(words) > 1:
        half = len(words) // 2
        yield from _single(words[:half], base, count)
        yield from _single(words[half:], base, count)


def _usage(client: Client, model: str, workloads: Sequence[Workload], calibration: Calibration) -> Calibration:
    overhead: dict[str, float] = {}
    per_word = GUESS_PER_WORD
    for workload in workloads:
        short = _send(client, model, FIRST, calibration, workload)
        longer = _send(client, model, " ".join([FIRST, *WORDS[:SAMPLE_WORDS]]), calibration, workload)
        if short.prompt_tokens is None or longer.prompt_tokens is None or ErrorKind.TIMEOUT in (short.error,):
            return calibration
        overhead[workload.name] = float(short.prompt_tokens)
        per_word = max(0.1, (longer.prompt_tokens - short.prompt_tokens) / SAMPLE_WORDS)
    return replace(calibration, overhead=overhead, per_word=per_word, source="usage")


def tell(calibration: Calibration) -> None:
    """Say on stderr how lengths are known."""
    texts = {
        "tokenize": f"prompt lengths are exact: {len(calibration.words)} words that are one token each",
        "usage": f"prompt lengths follow the server's usage: {calibration.per_word:.3g} tokens per word",
        "guess": "prompt lengths are guesses: the server has neither /tokenize nor usage",
    }
    print(f"loadtest: {texts[calibration.source]}", file=sys.stderr, flush=True)
