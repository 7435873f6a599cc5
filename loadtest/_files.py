"""A run's directory: ``summary.json``, the tables, ``run.json`` and ``report.html``; written, and read back."""

import json
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from loadtest._errors import LoadTestError
from loadtest._print import show
from loadtest._report import write_report
from loadtest._run_data import RunData
from loadtest._schema import SCHEMA_VERSION, Summary
from loadtest._slo import parse_all
from loadtest._summary import build
from loadtest._tables import read_health, read_requests, write_health, write_requests

SUMMARY, REQUESTS, HEALTH, RUN = "summary.json", "requests.csv", "health.csv", "run.json"
IN_TABLES = ("records", "health")
UNTRUSTED = 3


def finish(run: RunData, objectives: Sequence[str], report: Path | None) -> int:
    """Print the result and the verdict, and write the report's files. Returns the exit code.

    0: every objective met and the run VALID. 1: an objective missed. 3: the run cannot be trusted, or the report that
    was asked for could not be written. Raises LoadTestError for an objective that cannot be read.
    """
    summary = build(run, objectives)
    show(summary, Console())
    if report is None:
        return summary.exit_code
    try:
        write(run, summary, report)
    except OSError as error:
        print(f"the report could not be written to {report}: {error}", file=sys.stderr)
        return UNTRUSTED
    print(f"Report: {report}")
    return summary.exit_code


def write(run: RunData, summary: Summary, directory: Path) -> None:
    """Write every file of a run; one that is there is replaced. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    write_requests(directory / REQUESTS, run, parse_all([result.text for result in summary.objectives]))
    write_health(directory / HEALTH, run.health)
    rest = {field.name: getattr(run, field.name) for field in fields(RunData) if field.name not in IN_TABLES}
    text = json.dumps({"schema_version": SCHEMA_VERSION, **rest}, indent=1, ensure_ascii=False)
    (directory / RUN).write_text(text + "\n", encoding="utf-8")
    # Last: whoever waits for a run looks for the summary.
    (directory / SUMMARY).write_text(summary.model_dump_json(indent=2) + "\n", encoding="utf-8")
    write_report(run, summary, directory)


def load(directory: Path) -> RunData:
    """Read a run back. Raises LoadTestError for a directory that ``write`` did not make."""
    values = _json(directory / RUN)
    if values.pop("schema_version", None) != SCHEMA_VERSION:
        raise LoadTestError(f"{directory / RUN} was written by another version: run the load test again")
    try:
        records, health = read_requests(directory / REQUESTS), read_health(directory / HEALTH)
        return TypeAdapter(RunData).validate_python({**values, "records": records, "health": health})
    except (OSError, ValidationError) as error:
        raise LoadTestError(f"{directory} cannot be read: {_first_line(error)}") from None


def load_summary(directory: Path) -> Summary:
    """Read the summary of a run. Raises LoadTestError for a directory without one, and for one of another version."""
    path = directory / SUMMARY
    try:
        return Summary.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadTestError(f"{directory} holds no finished run: {error.strerror} ({SUMMARY})") from None
    except ValidationError as error:
        raise LoadTestError(f"{path} is no summary of this version: {_first_line(error)}") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LoadTestError(f"{path.parent} holds no finished run: {error.strerror} ({path.name})") from None
    except ValueError as error:
        raise LoadTestError(f"{path} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise LoadTestError(f"{path} holds no run: run the load test again")
    return values


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
