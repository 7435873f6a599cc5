"""Prevents a generated page, or the chart's schema, that says something else than what it is made from."""

from pathlib import Path

import pytest

from deploy.reference import GENERATED, render
from deploy.schema import schema_of


@pytest.mark.parametrize("file", GENERATED, ids=lambda file: file.name)
def test_a_committed_file_is_what_is_generated(file: Path) -> None:
    assert file.read_text(encoding="utf-8") == GENERATED[file](), "run: python -m deploy.reference"


def test_every_setting_has_one_row_with_its_key_flag_and_variable() -> None:
    page = render()
    for leaf in schema_of().leaves.values():
        assert page.count(f"| `{leaf.key}` | `{leaf.flag}` | `{leaf.variable}` |") == 1


def test_a_row_holds_default_unit_bounds_and_description() -> None:
    assert (
        "| `vllm.max_num_seqs` | `--max-num-seqs` | `MISTRAL_SERVE_VLLM__MAX_NUM_SEQS` | `128` | sequences "
        "| a whole number from 1 to 4096 | Most sequences that one replica decodes at once. |"
    ) in render().splitlines()


def test_every_table_row_has_seven_cells() -> None:
    rows = [line for line in render().splitlines() if line.startswith("| `") and "MISTRAL_SERVE_" in line]
    assert len(rows) == len(schema_of().leaves)
    assert {line.replace("\\|", "").count("|") for line in rows} == {8}
