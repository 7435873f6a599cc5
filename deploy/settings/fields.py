"""What every settings field and group is made with."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


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
