"""Where settings come from besides the command line: arguments, the environment, a profile.

Each source gives its values to pydantic-settings and keeps the mistakes that it finds in the keys, one sentence each.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from deploy import profiles
from deploy.errors import UsageError
from deploy.flags import NULL, parse_plain
from deploy.schema import Leaf, schema_of
from deploy.settings import DEMO_MODEL, ENV_PREFIX, Settings

# Kubernetes describes every Service of the namespace in variables; those of one called "mistral-serve" bear our prefix.
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_SERVICE_LINK = re.compile(r"(.*_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)")
_SERVICE_URL = re.compile(r"(tcp|udp|sctp)://")


class Given(PydanticBaseSettingsSource):
    """Settings from nested mappings or dotted keys; the values may be text."""

    noun = "argument"

    def __init__(self, settings_class: type[Settings], given: Mapping[Any, Any]) -> None:
        super().__init__(settings_class)
        self.mistakes: list[str] = []
        self._place = ""
        self._schema = schema_of(settings_class)
        self._values: dict[str, Any] = {}
        self._read(given)

    def __call__(self) -> dict[str, Any]:
        """The values, nested by group."""
        return self._values

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Not used: ``__call__`` gives all values at once."""
        raise NotImplementedError

    def name(self, leaf: Leaf) -> str:
        """What a person calls ``leaf`` in this source."""
        return self._spell(leaf.key) + self._place

    def _spell(self, key: str) -> str:
        return key

    def _read(self, given: Mapping[Any, Any], prefix: str = "") -> None:
        for name, value in given.items():
            key = f"{prefix}{name}"
            first, _, rest = key.partition(".")
            if key in self._schema.leaves:
                self._set(self._schema.leaves[key], value)
            elif key in self._schema.groups and isinstance(value, Mapping):
                self._read(value, f"{key}.")
            elif key in self._schema.groups:
                self.mistakes.append(f"{self._spell(key)}{self._place} is a group: give {self._spell(f'{key}.NAME')}")
            elif first in self._schema.leaves and self._schema.leaves[first].kind is dict:
                self._set(self._schema.leaves[first], {rest: self._parsed(value, f"{self._spell(key)}{self._place}")})
            else:
                nearest = self._spell(self._schema.nearest(key).key)
                unknown = f"unknown {self.noun} {self._spell(key)!r}{self._place}"
                self.mistakes.append(f"{unknown}: the nearest known one is {nearest}")

    def _set(self, leaf: Leaf, value: Any) -> None:
        values = self._values.setdefault(leaf.group, {}) if leaf.group else self._values
        if leaf.kind is dict:
            value = self._parsed(value, self.name(leaf))
            if not isinstance(value, dict):
                self.mistakes.append(leaf.refusal(self.name(leaf), value))
                return
            value = values.get(leaf.name, {}) | value
        elif isinstance(value, bool) and leaf.kind is not bool and not leaf.is_word(value):
            # Python takes true for 1, a person does not.
            self.mistakes.append(leaf.refusal(self.name(leaf), value))
            return
        values[leaf.name] = None if value == NULL else value

    def _parsed(self, value: Any, source: str) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return parse_plain(value, source)
        except UsageError as error:
            self.mistakes.append(str(error))
            return {}


class Environment(Given):
    """Every variable with our prefix; an empty one counts as not given."""

    noun = "environment variable"

    def __init__(self, settings_class: type[Settings]) -> None:
        given = {}
        for name, value in os.environ.items():
            rest = name.removeprefix(ENV_PREFIX)
            is_link = _SERVICE_LINK.fullmatch(rest) or (rest.endswith("PORT") and _SERVICE_URL.match(value))
            if name != rest and value and not is_link:
                given[rest.lower().replace("__", ".", 1)] = value
        super().__init__(settings_class, given)

    def _spell(self, key: str) -> str:
        return ENV_PREFIX + key.upper().replace(".", "__", 1)


class Profile(Given):
    """The profile that the sources above this one chose, or the one made for the model that they chose."""

    noun = "key"

    def __init__(self, settings_class: type[Settings]) -> None:
        super().__init__(settings_class, {})
        self._was_read = False

    def __call__(self) -> dict[str, Any]:
        """The values, nested by group; pydantic-settings has told ``current_state`` before the first call."""
        if not self._was_read:
            self._was_read = True
            try:
                if profile := self._choose():
                    self._place = f" in profile {profile}"
                    self._values["profile"] = profile
                    self._read(profiles.read(profile))
            except UsageError as error:
                self.mistakes.append(str(error))
        return self._values

    def _choose(self) -> str | None:
        state = self.current_state
        if "profile" in state:
            return chosen if isinstance(chosen := state["profile"], str) else None
        model = state.get("model", DEMO_MODEL)
        if not isinstance(model, str) or (model == DEMO_MODEL and _is_true(state.get("rehearse", False))):
            return None
        return profiles.made_for(model)


def _is_true(value: Any) -> bool:
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False
