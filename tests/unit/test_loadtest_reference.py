"""Prevents: a page about a report's files that says something else than the files hold."""

from loadtest import _schema as schema
from loadtest._reference import PAGE, parts, render


def test_the_page_is_what_the_schema_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "run: python -m loadtest._reference"


def test_every_part_of_the_summary_is_on_it_once() -> None:
    names = [part.__name__ for part in parts(schema.Summary)]
    assert names[0] == "Summary"
    assert sorted(names) == sorted(
        [
            *("Summary", "Verdict", "Reason", "ObjectiveResult", "RunInfo", "Load", "Client", "Figures"),
            *("Requests", "Tokens", "Metrics", "Distribution", "Throughput", "Goodput"),
        ]
    )
