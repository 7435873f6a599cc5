"""Has prompts judged, and decides what becomes of what was judged. Answers are in ``moderation_output``."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deploy.errors import UsageError
from deploy.gateway.errors import INVALID_REQUEST, SERVER, ApiError, Refused
from deploy.gateway.moderation_texts import prompt_texts
from deploy.gateway.observed import Seldom, logger
from deploy.gateway.request import RequestRecord
from deploy.metrics import MODERATION_SECONDS, MODERATIONS, REJECTIONS
from deploy.settings import GuardSettings

CONTENT_FILTER = "content_filter"
"""OpenAI's word for what a filter withheld: the error's code, and an answer's ``finish_reason``."""

INPUT, OUTPUT = "input", "output"

_PARAM = {"/v1/completions": "prompt", "/v1/responses": "input"}
_UNAVAILABLE = ApiError(
    503,
    SERVER,
    "moderation_unavailable",
    "The moderation endpoint gave no judgement. Send the request again later.",
    retry_after=5,
)


class NotJudgedError(Exception):
    """The endpoint gave no judgement; the message says how it failed and quotes nothing of its answer."""


class Judge(Protocol):
    """Who finds texts harmful. ``one_by_one``: each text costs a question of its own."""

    one_by_one: bool

    async def flagged(self, texts: Sequence[str]) -> list[bool]:
        """Whether each of the texts is harmful; raises ``NotJudgedError``."""
        ...


def endpoint_key(settings: GuardSettings) -> str | None:
    """The API key of the moderation endpoint; ``None`` where it needs none.

    Raises:
        UsageError: its file cannot be read, or holds none.
    """
    path = settings.moderation_key_file
    if path is None:
        return None
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII text"
        raise UsageError(
            f"guard.moderation_key_file {path} cannot be read ({reason}): mend it or its permissions"
        ) from None
    if not key or not key.isprintable():
        raise UsageError(f"guard.moderation_key_file {path} holds no key: write the endpoint's API key into it")
    return key


@dataclass
class Judged:
    """What was judged of one request so far: the harmful stages, and how long it waited for that."""

    record: RequestRecord
    flagged: list[str] = field(default_factory=list)
    waited_s: float = 0.0


class Moderation:
    """What one replica asks ``judge``, and what becomes of the verdicts by the settings' policy."""

    def __init__(self, settings: GuardSettings, judge: Judge) -> None:
        self.judges_input = settings.moderation_stage in {INPUT, "both"}
        self.judges_output = settings.moderation_stage in {OUTPUT, "both"}
        self.chunk_chars = settings.moderation_chunk_chars
        self.blocks = settings.moderation_policy == "block"
        self.tells = settings.moderation_policy != "log"
        self._passes_unjudged = settings.moderation_on_failure == "allow"
        self._judge = judge
        self._seldom = Seldom()

    async def judge_prompt(self, record: RequestRecord, body: dict[str, Any]) -> Judged:
        """Judge the request's prompt, where prompts are judged.

        Raises:
            Refused: it is harmful and the policy blocks it, it could not be judged, or it cannot be.
        """
        judged = Judged(record)
        if not self.judges_input:
            return judged
        texts = prompt_texts(record.route, body)
        if self._judge.one_by_one and texts:
            texts = ["\n\n".join(texts)]
        if any(await self.verdicts(INPUT, judged, texts)) and self.blocks:
            REJECTIONS.labels(key=record.key_name, reason="moderation").inc()
            message = "The moderation of this server found the prompt harmful."
            param = _PARAM.get(record.route, "messages")
            raise Refused(ApiError(400, INVALID_REQUEST, CONTENT_FILTER, message, param))
        return judged

    async def verdicts(self, stage: str, judged: Judged, texts: Sequence[str]) -> list[bool]:
        """Whether each text is harmful; none is when the endpoint fails and failures let texts pass.

        Raises:
            Refused: the endpoint gave no judgement, and such texts do not pass.
        """
        if not texts:
            return []
        begun = time.monotonic()
        try:
            verdicts = await self._judge.flagged(texts)
        except NotJudgedError as error:
            MODERATIONS.labels(stage=stage, verdict="failed").inc()
            self._seldom.warn("the moderation endpoint did not judge: %s", error)
            if not self._passes_unjudged:
                raise Refused(_UNAVAILABLE) from None
            return [False] * len(texts)
        finally:
            waited_s = time.monotonic() - begun
            judged.waited_s += waited_s
            MODERATION_SECONDS.labels(stage=stage).observe(waited_s)
        MODERATIONS.labels(stage=stage, verdict="flagged" if any(verdicts) else "allowed").inc()
        if any(verdicts):
            _note(stage, judged)
        return verdicts


def _note(stage: str, judged: Judged) -> None:
    if stage not in judged.flagged:
        judged.flagged.append(stage)
        record = judged.record
        logger.info("moderation: %s of request %s (key %s) is harmful", stage, record.id, record.key_name or "-")
