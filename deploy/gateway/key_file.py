"""The file of API keys: what it holds, and how a key is made and found again.

A key is ``ms-``, eight hexadecimal digits, ``-`` and 256 random bits. The file holds the first eleven characters, which
find the entry, and the SHA-256 of the whole key. A slow, salted hash protects passwords, which can be guessed; nobody
guesses 256 random bits, so one pass of SHA-256 is as good here and costs a microsecond for each request.
"""

import hashlib
import hmac
import secrets
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StrictBool, ValidationError, model_validator

from deploy.errors import UsageError
from deploy.strict_yaml import parse_yaml

PREFIX_LENGTH = 11
_RULES = {
    "name": "a letter or digit, then at most 63 letters, digits, dots, dashes or underscores",
    "prefix": "what `python -m deploy.keys new` wrote",
    "hash": "what `python -m deploy.keys new` wrote: a key itself must not stand in the file",
    "models": "a list of served model names",
    "expires": "a date and time with a zone, for example 2030-01-31T00:00:00Z",
    "disabled": "true or false",
    "requests_per_minute": "a whole number from 1",
    "tokens_per_minute": "a whole number from 1",
    "priority": "low, normal or high",
    "guard": "true or false",
}
_ENGINE_PRIORITIES = {"high": -1, "normal": 0, "low": 1}
"""vLLM's priority scheduling serves the lowest number first (``SchedulerConfig.policy``)."""

ModelName = Annotated[str, Field(min_length=1, max_length=256)]


class Key(BaseModel):
    """One entry: whom the key is for, what it opens, and how much of it.

    ``models`` of ``None`` means every model; a quota of ``None`` means the one in ``settings.quotas``. ``guard`` asks
    for the guard in every request of this key (``settings.guard``).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    prefix: str = Field(pattern=r"^ms-[0-9a-f]{8}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$", repr=False)
    models: tuple[ModelName, ...] | None = Field(default=None, min_length=1)
    expires: AwareDatetime | None = None
    disabled: StrictBool = False
    requests_per_minute: int | None = Field(default=None, ge=1, strict=True)
    tokens_per_minute: int | None = Field(default=None, ge=1, strict=True)
    priority: Literal["low", "normal", "high"] = "normal"
    guard: StrictBool = False

    @property
    def engine_priority(self) -> int:
        """The priority in vLLM's terms."""
        return _ENGINE_PRIORITIES[self.priority]

    def opens(self, token: bytes) -> bool:
        """Whether ``token`` is this key, in a time that does not depend on how much of it is right."""
        return hmac.compare_digest(digest(token), self.hash)


class KeyFile(BaseModel):
    """The whole file. Several keys may bear one name: that is how a key is replaced without an interruption."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    keys: tuple[Key, ...]

    @model_validator(mode="after")
    def _prefixes_differ(self) -> Self:
        seen: set[str] = set()
        for key in self.keys:
            if key.prefix in seen:
                raise ValueError(f"the prefix {key.prefix} appears twice: remove one of the two")
            seen.add(key.prefix)
        return self


def digest(token: bytes) -> str:
    """SHA-256 of a key, in lower-case hexadecimal."""
    return hashlib.sha256(token).hexdigest()


def new_token() -> str:
    """A new key of 256 random bits (``secrets``: the operating system's generator)."""
    return f"ms-{secrets.token_hex(4)}-{secrets.token_urlsafe(32)}"


def prefix_of(token: bytes) -> str:
    """The part of a key that finds its entry; it is no secret."""
    return token[:PREFIX_LENGTH].decode("latin-1")


def read(path: Path) -> KeyFile:
    """The keys in ``path``, YAML or JSON.

    Raises:
        UsageError: not readable, malformed, or not what the file must hold; the sentence quotes no value from it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"the key file {path} does not exist: make it with `python -m deploy.keys new --name NAME --file {path}`"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"the key file {path} cannot be read ({reason}): mend it or its permissions") from None
    try:
        return KeyFile.model_validate(parse_yaml(text, f"the key file {path}"))
    except ValidationError as error:
        raise UsageError(f"the key file {path}: {_mistake(error)}") from None


def _mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if len(place) < 3:
        return "write a mapping with the one key `keys` and a list of entries under it"
    where, field = f"entry {int(place[1]) + 1}", place[2]
    if first["type"] == "extra_forbidden":
        return f"{where} holds a field that is not known: the known ones are {', '.join(Key.model_fields)}"
    return f"`{field}` of {where} is wrong or missing: give {_RULES[field]}"
