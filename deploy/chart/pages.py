"""The two generated pages about the chart: its values, and what a change of them does."""

import json

from deploy.chart.changes import CHANGES, Effect
from deploy.chart.schema import OWNED
from deploy.chart.values import FILE, Value, read

_VALUES_HEAD = """\
# Values of the chart

Made from `helm/values.yaml` by `python -m deploy.reference`. Do not edit it by hand. `helm/values.schema.json` is made
from the same file: a key that is not listed here is an error, and so is a value of another type. What a change of a
value does to a running release stands in [Changes](../helm-changes.md).
"""

_SETTINGS = f"""\
Any other setting goes here by its name in [Settings](settings.md), with the same bounds, for example
`settings.vllm.max_num_seqs`. The chart sets these itself: {", ".join(f"`{key}`" for key in OWNED)}.
"""

_CHANGES_HEAD = """\
# What a change of a value does

Made from `deploy/chart/changes.py` by `python -m deploy.reference`. Do not edit it by hand. A test renders every row
before and after its change and compares the two as KubeRay 1.6 does.
"""

_EFFECTS = {
    Effect.IN_PLACE: "The running cluster goes on. Settings reach Ray Serve, which replaces the replicas one by one; "
    "with a single replica there is none while the new one loads.",
    Effect.NEW_CLUSTER: "With `upgrade.strategy: NewCluster` a second Ray cluster starts, loads the model, and takes "
    "the Service over; the first one finishes its streams and is deleted. For that time the resources are needed "
    "twice. With `None` nothing happens until you delete the cluster.",
    Effect.NEXT_SWITCH: "It waits until a new cluster takes over.",
    Effect.IGNORED: "KubeRay does not look at it: nothing happens, until what the remark says.",
}

_CHANGES_TAIL = """\
A new version of the chart alone changes nothing in the Ray cluster: its pods carry no version of the chart. Another
`nameOverride` or `fullnameOverride` is another RayService: the old one is deleted at once.
"""


def render_values() -> str:
    """The page of all values: one table for each group."""
    values = read(FILE.read_text(encoding="utf-8"))
    parts = [_VALUES_HEAD, "## Top level\n\n" + _table([value for value in values if _belongs_to(value, "")])]
    for group in (value for value in values if value.is_group and "." not in value.key):
        text = f"## `{group.key}`\n\n{group.description}\n\n"
        parts.append(text + _table([value for value in values if _belongs_to(value, group.key)]))
        if group.key == "settings":
            parts.append(_SETTINGS)
    return "\n".join(parts)


def render_changes() -> str:
    """The page of what a change does: the effects, and one row for each change."""
    effects = [_row(effect, text) for effect, text in _EFFECTS.items()]
    changes = [_row(", ".join(f"`{key}`" for key in change.keys), change.effect, change.note) for change in CHANGES]
    tables = [_lines("effect", "what happens", rows=effects), _lines("value", "effect", "remark", rows=changes)]
    return "\n".join([_CHANGES_HEAD, *tables, _CHANGES_TAIL])


def _belongs_to(value: Value, group: str) -> bool:
    first, dot, _ = value.key.partition(".")
    return not value.is_group and (first if dot else "") == group


def _table(values: list[Value]) -> str:
    rows = [_row(f"`{value.key}`", f"`{json.dumps(value.default)}`", value.description) for value in values]
    return _lines("value", "default", "description", rows=rows)


def _lines(*columns: str, rows: list[str]) -> str:
    return "\n".join([_row(*columns), _row(*["---"] * len(columns)), *rows, ""])


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
