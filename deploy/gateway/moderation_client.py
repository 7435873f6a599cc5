"""Asks the operator's moderation endpoint which texts are harmful, over OpenAI's API.

A ``/v1/moderations`` endpoint (https://platform.openai.com/docs/api-reference/moderations) is asked about all texts at
once. A chat endpoint is asked about each; its model must answer as Llama Guard does, with ``safe`` or ``unsafe`` as the
first word (https://www.llama.com/docs/model-cards-and-prompt-formats/llama-guard-3).
"""

import asyncio
import json
import logging
from collections.abc import Sequence
from typing import Any

import httpx

from deploy.gateway.moderation import NotJudgedError, endpoint_key
from deploy.settings.guard import CHAT_PATH, GuardSettings

MOST_CONNECTIONS = 32
"""Judgements that one replica asks for at once; more wait, within their timeout."""

LARGEST_ANSWER = 1024**2
"""Bytes of the endpoint's answer that are read: the scores of a thousand messages fit."""

_VERDICTS = {"safe": False, "unsafe": True}
_LONGEST_VERDICT = 32
"""Tokens of a chat endpoint's answer: the verdict is its first word."""


class Endpoint:
    """One moderation endpoint, with a pool of connections to it.

    Raises:
        UsageError: the file of its API key cannot be used.
    """

    def __init__(self, settings: GuardSettings) -> None:
        self._url, self._model = str(settings.moderation_url), settings.moderation_model
        self._timeout_s = settings.moderation_timeout_s
        self.one_by_one = httpx.URL(self._url).path.endswith(CHAT_PATH)
        # Not compressed, so that what is read is bounded by what is received.
        headers = {"content-type": "application/json", "accept-encoding": "identity"}
        if (key := endpoint_key(settings)) is not None:
            headers["authorization"] = f"Bearer {key}"
        # It would log a line for each judgement.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        limits = httpx.Limits(max_connections=MOST_CONNECTIONS, max_keepalive_connections=MOST_CONNECTIONS)
        # `asyncio.timeout` bounds all of a judgement; httpx's timeouts bound each wait on the network only.
        self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=None)  # noqa: S113

    async def flagged(self, texts: Sequence[str]) -> list[bool]:
        """Whether each of the texts is harmful.

        Raises:
            NotJudgedError: the endpoint cannot be reached, is too slow, or gave another answer than a judgement.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                if self.one_by_one:
                    return await self._chats(texts)
                return _of_moderation(await self._ask({"input": list(texts)}), len(texts))
        except TimeoutError:
            raise NotJudgedError(f"no answer within {self._timeout_s:g} s") from None
        except httpx.HTTPError as error:
            raise NotJudgedError(type(error).__name__) from None
        except (LookupError, TypeError, AttributeError, ValueError, RecursionError):
            raise NotJudgedError("its answer is no judgement") from None

    async def _chats(self, texts: Sequence[str]) -> list[bool]:
        """A judgement of each text; the first that fails ends all."""
        judgements = [asyncio.create_task(self._chat(text)) for text in texts]
        try:
            return await asyncio.gather(*judgements)
        finally:
            # `gather` leaves them running, past the timeout, when one fails.
            for judgement in judgements:
                judgement.cancel()

    async def _chat(self, text: str) -> bool:
        messages = [{"role": "user", "content": text}]
        answer = await self._ask({"messages": messages, "temperature": 0, "max_tokens": _LONGEST_VERDICT})
        word = answer["choices"][0]["message"]["content"].split()[0]
        return _VERDICTS[word.strip(".,:;!").lower()]

    async def _ask(self, body: dict[str, Any]) -> Any:
        if self._model is not None:
            body = {"model": self._model, **body}
        async with self._client.stream("POST", self._url, content=json.dumps(body)) as response:
            if response.status_code != httpx.codes.OK:
                raise NotJudgedError(f"status {response.status_code}")
            content = bytearray()
            async for chunk in response.aiter_raw():
                content += chunk
                if len(content) > LARGEST_ANSWER:
                    raise NotJudgedError(f"its answer is larger than {LARGEST_ANSWER} bytes")
        return json.loads(bytes(content))


def _of_moderation(answer: Any, count: int) -> list[bool]:
    results = answer["results"]
    if len(results) != count:
        raise ValueError("one result for each text")
    return [_is_flagged(result) for result in results]


def _is_flagged(result: Any) -> bool:
    """OpenAI's results say ``flagged``; Mistral's have the categories only."""
    verdicts = [result["flagged"]] if "flagged" in result else list(result["categories"].values())
    if not verdicts or not all(isinstance(verdict, bool) for verdict in verdicts):
        raise ValueError("verdicts are true or false")
    return any(verdicts)
