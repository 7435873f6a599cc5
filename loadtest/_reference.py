"""The reference page of a report's files, made from their schema: ``python -m loadtest._reference`` writes it."""

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from loadtest import _schema as schema
from loadtest._slo import LATENCIES, RATES, SHARES, STATISTICS
from loadtest._tables import COLUMNS, HEALTH_COLUMNS

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "load-test-report.md"
HEAD = """\
# Files of a load test's report

Made from `loadtest/_schema.py` and `loadtest/_tables.py` by `python -m loadtest._reference`. Do not edit it by hand.
[The load test](../loadtest.md) says how they come about.

## Objectives

`--slo METRIC<BOUND`, or `>` for rates. A latency metric is a name and a statistic, such as `ttft_p95`.

| part | values |
| --- | --- |
"""


def render() -> str:
    """The page as Markdown: the objectives, one table for each part of ``summary.json``, and the tables' columns."""
    lines = [HEAD.rstrip("\n")]
    for group, names in (
        ("latency", LATENCIES),
        ("statistic", STATISTICS),
        ("share, in per cent", SHARES),
        ("per second", RATES),
    ):
        lines.append(f"| {group} | {', '.join(f'`{name}`' for name in names)} |")
    lines += ["", "## `summary.json`", "", f"Schema version {schema.SCHEMA_VERSION}. Times are milliseconds."]
    for part in parts(schema.Summary):
        text = " ".join((part.__doc__ or "").split())
        lines += ["", f"### {part.__name__}", "", text, "", "| field | type | meaning |", "| --- | --- | --- |"]
        for name, field in part.model_fields.items():
            lines.append(f"| `{name}` | {_type(field.annotation)} | {_cell(field.description)} |")
    lines += _table("`requests.csv`", COLUMNS) + _table("`health.csv`", HEALTH_COLUMNS)
    return "\n".join(lines) + "\n"


def parts(model: type[BaseModel], seen: set[type] | None = None) -> Iterator[type[BaseModel]]:
    """A model and every model within it, once each, from the outside in."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for inner in _models(field.annotation):
            yield from parts(inner, seen)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _type(annotation: Any) -> str:
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if one is type(None) else _type(one) for one in arguments)
    if origin in (list, tuple):
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"object of {_type(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}.get(annotation, "any")


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def _table(title: str, columns: Mapping[str, str]) -> list[str]:
    rows = [f"| `{name}` | {_cell(text)} |" for name, text in columns.items()]
    return ["", f"## {title}", "", "| column | meaning |", "| --- | --- |", *rows]


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
