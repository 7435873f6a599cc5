"""What the model is told, and what it is kept from saying."""

from pathlib import Path
from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import model_validator

from deploy.settings.fields import Group, option

SAFE_PROMPT = (
    "Always assist with care, respect, and truth. Respond with utmost utility yet securely. Avoid harmful, unethical, "
    "prejudiced, or negative content. Ensure replies promote fairness and positivity."
)
"""Mistral's published text (https://docs.mistral.ai, guardrailing)."""

When = Literal["off", "on_request", "always"]

CHAT_PATH, MODERATIONS_PATH = "/chat/completions", "/moderations"
"""How the path of a moderation endpoint ends, by which its protocol is known."""


class GuardSettings(Group):
    """What the model is told, and what it is kept from saying.

    `on_request` means: for requests that carry `"safe_prompt": true`, and for keys whose entry says `guard: true`.
    """

    safe_prompt: When = option(
        "on_request",
        "When a chat is begun with the safe prompt.",
    )
    safe_prompt_text: str = option(SAFE_PROMPT, "The system prompt that is put first.", min_length=1)
    moderation: When = option("off", "When prompts and completions are sent to the moderation endpoint.")
    moderation_url: str | None = option(
        None,
        "OpenAI-compatible endpoint that judges text: a `/v1/moderations` or a `/v1/chat/completions` URL.",
        unset="no moderation",
        min_length=1,
    )
    moderation_model: str | None = option(
        None, "Model that the moderation endpoint is asked for.", unset="not named", min_length=1
    )
    moderation_key_file: Path | None = option(
        None, "File that holds the API key of the moderation endpoint.", unset="no key"
    )
    moderation_stage: Literal["input", "output", "both"] = option(
        "both", "What is judged: prompts, completions, or both."
    )
    moderation_policy: Literal["block", "flag", "log"] = option(
        "block",
        "What becomes of harmful text. `flag`: it passes with an `x-moderation` header, `log`: it passes unchanged.",
    )
    moderation_timeout_s: float = option(5, "Longest wait for a judgement.", unit="s", gt=0, le=60)
    moderation_on_failure: Literal["allow", "refuse"] = option(
        "refuse", "Requests that the endpoint did not judge in time: refuse them with 503, or let them pass."
    )
    moderation_chunk_chars: int = option(
        400,
        "A stream is judged, and passed on, in pieces of this length; a shorter one delays less and asks more often.",
        unit="characters",
        ge=20,
        le=100_000,
    )

    @model_validator(mode="after")
    def _endpoint_is_named(self) -> Self:
        if self.moderation != "off" and self.moderation_url is None:
            raise ValueError(f"moderation {self.moderation} needs an endpoint: give moderation_url")
        return self

    @model_validator(mode="after")
    def _endpoint_has_a_known_protocol(self) -> Self:
        if self.moderation_url is None:
            return self
        try:
            parts = urlsplit(self.moderation_url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not parts.path.endswith((CHAT_PATH, MODERATIONS_PATH)):
            raise ValueError(
                "moderation_url is no endpoint that is known: give an HTTP or HTTPS URL that ends in "
                f"/v1{MODERATIONS_PATH} or /v1{CHAT_PATH}"
            )
        if parts.username is not None or parts.password is not None:
            raise ValueError("moderation_url holds a password: put the key into a file and give moderation_key_file")
        return self
