"""The reference page of all settings, made from the schema.

``python -m deploy.reference`` writes it, and whatever else is generated: ``GENERATED``.
"""

from collections.abc import Callable
from pathlib import Path

from deploy.chart import pages
from deploy.chart import schema as chart_schema
from deploy.schema import Leaf, schema_of

_DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = _DOCS / "reference" / "settings.md"
_COLUMNS = ["key", "flag", "environment variable", "default", "unit", "bounds", "description"]

_HEAD = """\
# Settings

Made from `deploy/settings/` by `python -m deploy.reference`. Do not edit it by hand.

## Where a setting comes from

Later ones win: defaults, a profile, the environment, arguments, flags.

| source | how a setting is written |
| --- | --- |
| profile (`configs/NAME.yaml`, or a file) | `vllm: {max_model_len: 8192}` |
| environment | `MISTRAL_SERVE_VLLM__MAX_MODEL_LEN=8192`; an empty variable counts as not set |
| arguments of `serve run deploy.app:build_app` | `vllm.max_model_len=8192` |
| `args` in a Serve config file or a RayService | `vllm: {max_model_len: 8192}` or `vllm.max_model_len: 8192` |
| flags of `serve.py` | `--max-model-len 8192` or `--vllm.max-model-len 8192` |

- Every setting has a dotted flag, such as `--vllm.max-model-len`. The tables show the shortest one.
- `true` or `false` is written `--enforce-eager` or `--no-enforce-eager` as a flag.
- The text `null` takes back what a lower source set.
- Without `profile`, the profile that is named like the model is taken, if there is one. `--profile null` takes none.
- Profiles, environment, arguments and flags are merged setting by setting.
- `engine` takes any further argument of vLLM: `--engine block_size=32`, `MISTRAL_SERVE_ENGINE__BLOCK_SIZE=32`,
  `engine.block_size=32`, or `engine: {block_size: 32}`. Text is read as YAML, which includes JSON.
- A key that is not listed here is an error.
"""


def render() -> str:
    """The page as Markdown: one table for each group, one row for each setting."""
    schema = schema_of()
    parts = [_HEAD]
    for group in ["", *schema.groups]:
        title = f"`{group}`" if group else "Top level"
        text = schema.groups.get(group, "What is served, and from where.")
        rows = [_row(leaf) for leaf in schema.leaves.values() if leaf.group == group]
        parts.append(
            "\n".join([f"## {title}\n", f"{text}\n", _cells(_COLUMNS), _cells(["---"] * len(_COLUMNS)), *rows, ""])
        )
    return "\n".join(parts)


_COLUMNS = ["key", "flag", "environment variable", "default", "unit", "bounds", "description"]


def _row(leaf: Leaf) -> str:
    default = f"`{leaf.default}`" if leaf.field.default is not None else leaf.default
    bounds = leaf.allowed.removesuffix(f" {leaf.unit}")
    keys = [f"`{leaf.key}`", f"`{leaf.flag}`", f"`{leaf.variable}`"]
    return _cells([*keys, default, leaf.unit, bounds, leaf.description])


def _cells(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


GENERATED: dict[Path, Callable[[], str]] = {
    PAGE: render,
    _DOCS / "reference" / "helm-values.md": pages.render_values,
    _DOCS / "helm-changes.md": pages.render_changes,
    chart_schema.FILE_OUT: chart_schema.render,
}
"""Every file that is made from the schema or the chart, and what makes it."""

if __name__ == "__main__":
    for file, make in GENERATED.items():
        file.write_text(make(), encoding="utf-8")
        print(f"wrote {file}")
