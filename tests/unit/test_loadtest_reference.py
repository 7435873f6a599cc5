"""Prevents: a page about a report's files, or about the flags, that says something else than they are."""

from loadtest import _flag_reference
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


def test_the_page_of_the_flags_is_what_they_are() -> None:
    page = _flag_reference.PAGE.read_text(encoding="utf-8")
    assert page == _flag_reference.render(), "run: python -m loadtest._flag_reference"
