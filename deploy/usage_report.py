"""What a report of the usage log adds up, and how it is printed."""

import csv
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields

from deploy.gateway.usage_files import UsageLine

REJECTIONS = {401, 403, 429}
"""Statuses of requests that were refused for who sent them, or for how many."""

GROUPS: dict[str, Callable[[UsageLine], str]] = {
    "key": lambda line: line.key,
    "day": lambda line: line.start.date().isoformat(),
    "model": lambda line: line.model,
    "route": lambda line: line.route,
}


@dataclass
class Totals:
    """Sums over requests. ``errors`` are all failed answers but rejections, broken off ones too.

    ``unfinished``: running now, or lost with their replica; their tokens count as far as they are known.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    errors: int = 0
    rejections: int = 0
    hang_ups: int = 0
    unfinished: int = 0

    def add(self, line: UsageLine) -> None:
        """Count the request whose last line this is."""
        self.requests += 1
        self.prompt_tokens += line.prompt_tokens
        self.completion_tokens += line.completion_tokens
        if not line.final:
            self.unfinished += 1
        elif line.status in REJECTIONS:
            self.rejections += 1
        elif line.status >= 400 or not (line.complete or line.hung_up):
            self.errors += 1
        self.hang_ups += line.hung_up


COLUMNS = [field.name for field in fields(Totals)]


class Report:
    """Totals for every combination of ``groups``, which are keys of ``GROUPS``."""

    def __init__(self, groups: Sequence[str]) -> None:
        self.groups = tuple(groups)
        self.all = Totals()
        self._parts: dict[tuple[str, ...], Totals] = {}

    def add(self, line: UsageLine) -> None:
        """Count the request whose last line this is."""
        part = tuple(GROUPS[group](line) for group in self.groups)
        self._parts.setdefault(part, Totals()).add(line)
        self.all.add(line)

    def rows(self) -> list[dict[str, str | int]]:
        """One mapping for each combination, sorted by it."""
        return [
            {**dict(zip(self.groups, part, strict=True)), **asdict(totals)}
            for part, totals in sorted(self._parts.items())
        ]


def _print_table(report: Report) -> None:
    """Aligned columns and a line of totals, for the eye."""
    labels, numbers = list(report.groups), COLUMNS
    head = [name.replace("_", " ").upper() for name in labels + numbers]
    rows = [[str(value) or "-" for value in row.values()] for row in report.rows()]
    total = ["total", *("" for _ in labels[1:]), *map(str, asdict(report.all).values())]
    cells = [head, *rows, total]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = [
            cell.ljust(width) if place < len(labels) else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())


def _print_csv(report: Report) -> None:
    writer = csv.DictWriter(sys.stdout, [*report.groups, *COLUMNS], lineterminator="\n")
    writer.writeheader()
    writer.writerows(report.rows())


def _print_json(report: Report) -> None:
    print(json.dumps(report.rows(), indent=2))


FORMATS: dict[str, Callable[[Report], None]] = {"table": _print_table, "csv": _print_csv, "json": _print_json}
"""How a report is printed on stdout."""
