"""Prevents a reference page that says something else than the schema."""

from deploy.reference import PAGE, render
from deploy.schema import schema_of


def test_the_committed_page_is_what_the_schema_renders() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m deploy.reference"


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
