"""``Settings`` as a flat list of what can be set, for flags, messages, ``--help`` and the reference page alike."""

import json
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deploy.settings import ENV_PREFIX, Settings

_KINDS: dict[type, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    dict: "argument names with their values",
}


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write an integer of more than 4,300 digits.
        return repr(x) if abs(x) < 10**80 else "a very long number"


_short = _Short()
_short.maxstring = _short.maxother = 80


def shown(value: Any) -> str:
    """``value`` as a sentence quotes it: long ones shortened, and ``null``, ``true`` and ``false`` as in YAML."""
    return json.dumps(value) if value is None or isinstance(value, bool) else _short.repr(value)


@dataclass(frozen=True)
class Leaf:
    """One value that can be set, under its dotted key, for example ``vllm.max_model_len``."""

    key: str
    field: FieldInfo

    def _extra(self, name: str) -> str:
        extra = self.field.json_schema_extra
        return str(extra.get(name, "")) if isinstance(extra, dict) else ""

    @property
    def group(self) -> str:
        """Name of the group that holds it; empty at the top level."""
        return self.key.rpartition(".")[0]

    @property
    def name(self) -> str:
        """The key without its group."""
        return self.key.rpartition(".")[2]

    @property
    def dotted_flag(self) -> str:
        """The flag that spells out the whole key, for example ``--vllm.max-model-len``."""
        return "--" + self.key.replace("_", "-")

    @property
    def flag(self) -> str:
        """The shortest flag, for example ``--max-model-len``; the dotted one where there is no short one."""
        short = self._extra("flag")
        return f"--{short}" if short else self.dotted_flag

    @property
    def variable(self) -> str:
        """The environment variable, for example ``MISTRAL_SERVE_VLLM__MAX_MODEL_LEN``."""
        return ENV_PREFIX + self.key.replace(".", "__").upper()

    @property
    def description(self) -> str:
        """What it means, in sentences."""
        return self.field.description or ""

    @property
    def unit(self) -> str:
        """Unit of its value; empty where it has none."""
        return self._extra("unit")

    @property
    def default(self) -> str:
        """The default, as a person would write it, or what leaving it out comes to."""
        value = self.field.default
        if value is None:
            return self._extra("unset") or "not set"
        if isinstance(value, bool):
            return str(value).lower()
        return "none" if value == {} else str(value)

    @property
    def kind(self) -> Any:
        """Its Python type, without ``None``; a ``Literal`` stays one."""
        members = [member for member in get_args(self.field.annotation) if member is not NoneType]
        optional = NoneType in get_args(self.field.annotation)
        annotation = members[0] if optional else self.field.annotation
        origin = get_origin(annotation)
        return origin if isinstance(origin, type) else annotation

    def is_word(self, value: bool) -> bool:
        """Whether a boolean is a word that this leaf takes: YAML 1.1 reads a bare ``on`` or ``off`` as one."""
        return get_origin(self.kind) is Literal and ("on" if value else "off") in get_args(self.kind)

    @property
    def bounds(self) -> str:
        """Its bounds in words, without the unit; empty where it has none."""
        parts = []
        for bound in self.field.metadata:
            match bound:
                case Ge(ge=value):
                    parts.append(f"from {value}")
                case Gt(gt=value):
                    parts.append(f"above {value}")
                case Le(le=value):
                    parts.append(f"to {value}" if parts and parts[0].startswith("from") else f"and at most {value}")
                case MinLen(min_length=value):
                    parts.append(f"of at least {value} character")
        return " ".join(parts)

    @property
    def allowed(self) -> str:
        """What its value may be, as the end of a sentence: "a whole number from 16 to 10000000 tokens"."""
        if get_origin(self.kind) is Literal:
            return "one of " + ", ".join(get_args(self.kind))
        return " ".join(part for part in (_KINDS[self.kind], self.bounds, self.unit) if part)

    def refusal(self, name: str, value: Any) -> str:
        """The sentence about a value that is not allowed; ``name`` is what the person called this leaf."""
        quotes = ", in quotes" if self.kind is str and isinstance(value, int | float) else ""
        return f"{name} is {shown(value)}: give {self.allowed}{quotes}"


@dataclass(frozen=True)
class Schema:
    """Every leaf by its dotted key, and the description of every group by its name."""

    leaves: dict[str, Leaf]
    groups: dict[str, str]

    def nearest(self, word: str) -> Leaf:
        """The leaf whose key or short flag is most like ``word``, which may be a key, a flag or a variable's name."""
        wanted = word.removeprefix(ENV_PREFIX).strip("-").lower().replace("-", "_").replace("__", ".")[:80]

        def likeness(leaf: Leaf) -> float:
            names = {leaf.key, leaf.name, leaf.flag.strip("-").replace("-", "_")}
            return max(SequenceMatcher(None, wanted, name).ratio() for name in names)

        return max(self.leaves.values(), key=likeness)


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[Leaf]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        else:
            yield Leaf(prefix + name, field)


@cache
def schema_of(settings_class: type[Settings] = Settings) -> Schema:
    """The schema of ``Settings`` or of a subclass that adds fields of its own."""
    leaves = {leaf.key: leaf for leaf in _leaves(settings_class)}
    groups = {leaf.group: "" for leaf in leaves.values() if leaf.group}
    return Schema(leaves, {name: settings_class.model_fields[name].description or "" for name in groups})
