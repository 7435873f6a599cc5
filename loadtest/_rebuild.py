"""``python -m loadtest report DIR``: a run's figures again, from its records, and its ``report.html``."""

import argparse
from pathlib import Path

from rich.console import Console

from loadtest._files import load, load_summary, write
from loadtest._print import show
from loadtest._summary import build


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the verb."""
    parser.add_argument("directory", type=Path, metavar="DIR", help="directory that --report wrote")
    parser.add_argument("--slo", action="append", metavar="OBJ", help="other objectives than the run had, repeatable")


def run(arguments: argparse.Namespace) -> int:
    """Rebuild the report; returns the run's exit code under its objectives. Raises LoadTestError."""
    old = load_summary(arguments.directory)
    run_data = load(arguments.directory)
    summary = build(run_data, arguments.slo or [result.text for result in old.objectives])
    write(run_data, summary, arguments.directory)
    show(summary, Console())
    return summary.exit_code
