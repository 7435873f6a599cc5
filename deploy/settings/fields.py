"""What every settings field and group is made with."""

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator


def option(default: Any, description: str, *, unit: str = "", flag: str = "", unset: str = "", **bounds: Any) -> Any:
    """A settings field: its description, unit, bounds, and the short flag it has besides its dotted one.

    ``unset`` says what a default of ``None`` comes to.
    """
    return Field(
        default,
        description=description,
        json_schema_extra={"unit": unit, "flag": flag, "unset": unset},
        **bounds,
    )


class Group(BaseModel):
    """Base of the nested groups: a value never changes after loading, and an unknown key is an error, not dropped."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _words_that_yaml_takes_for_booleans(cls, data: Any) -> Any:
        """YAML 1.1 reads the words ``on`` and ``off`` as booleans; where a field takes them, they are meant."""
        if not isinstance(data, dict):
            return data
        words = {name: "on" if value else "off" for name, value in data.items() if isinstance(value, bool)}
        fields = cls.model_fields
        meant = {n: word for n, word in words.items() if n in fields and word in get_args(fields[n].annotation)}
        return data | meant
