"""Adds up the usage log: ``python -m deploy.usage report --by key --day``, also while it is being written.

Memory grows with the groups of the report and, in each file, with the requests that ran at one time; never with the
size of a file.
"""

import os
import re
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

from pydantic import ValidationError

from deploy.errors import ServeError, UsageError
from deploy.gateway.usage_files import PATTERN, UsageLine
from deploy.settings import ENV_PREFIX
from deploy.usage_report import FORMATS, GROUPS, Report

VARIABLE = f"{ENV_PREFIX}USAGE__DIRECTORY"
LONGEST_LINE = 16 * 1024
"""Bytes of a line that are read; the lines that replicas write are much shorter."""

_FILE_NAME = re.compile(PATTERN.format(day=r"(?P<day>\d{4}-\d{2}-\d{2})", replica=".+"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns 0, or 2 for a mistake, which is one sentence on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except ServeError as error:
        print(f"deploy.usage: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="python -m deploy.usage", description="Add up the usage log.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="print requests, tokens, errors and rejections")
    report.set_defaults(run=_report)
    report.add_argument(
        "--by", choices=GROUPS, action="append", help="a line for each of these; repeatable [default: key]"
    )
    report.add_argument("--day", action="store_true", help="a line for each UTC day: short for --by day")
    report.add_argument("--since", metavar="DATE", help="first UTC day, for example 2030-01-31 [default: the oldest]")
    report.add_argument("--until", metavar="DATE", help="last UTC day [default: the newest]")
    report.add_argument("--directory", type=Path, help=f"the directory of the usage log [default: ${VARIABLE}]")
    report.add_argument("--format", choices=FORMATS, default="table", help="how to print it [default: table]")
    return parser


def _report(arguments: Namespace) -> None:
    groups = list(dict.fromkeys([*(arguments.by or []), *(["day"] if arguments.day else [])])) or ["key"]
    since, until = _date(arguments.since, "--since"), _date(arguments.until, "--until")
    if since is not None and until is not None and since > until:
        raise UsageError(f"--since {since} is later than --until {until}: give the earlier day first")
    report, damaged = Report(groups), 0
    for path in _files(_directory(arguments.directory), since, until):
        file = UsageFile(path)
        for line in file.last_lines():
            report.add(line)
        damaged += file.damaged
    FORMATS[arguments.format](report)
    if damaged:
        print(f"deploy.usage: {damaged} damaged lines were left out", file=sys.stderr)


def _date(text: str | None, flag: str) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{flag} is {text!r}: give a day, for example 2030-01-31") from None


def _directory(given: Path | None) -> Path:
    directory = given or Path(os.environ.get(VARIABLE) or "")
    if given is None and not os.environ.get(VARIABLE):
        raise UsageError(f"no directory is given: use --directory DIR, or set {VARIABLE}")
    if not directory.is_dir():
        raise UsageError(f"{directory} is no directory: give the one that usage.directory names")
    return directory


def _files(directory: Path, since: date | None, until: date | None) -> Iterator[Path]:
    """The files of the days from ``since`` to ``until``: a request lies in the file of the day on which it came."""
    for path in sorted(directory.iterdir()):
        match = _FILE_NAME.fullmatch(path.name)
        if match is None:
            continue
        day = _date(match["day"], path.name)
        assert day is not None
        if (since is None or since <= day) and (until is None or day <= until):
            yield path


class UsageFile:
    """One file of one replica. ``damaged`` counts the lines that were no usage lines; the last may be cut off."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.damaged = 0

    def last_lines(self) -> Iterator[UsageLine]:
        """The last line of every request: for those without a final one, the last that was written while it ran.

        Raises:
            UsageError: the file cannot be read.
        """
        running: dict[str, UsageLine] = {}
        for line in self._lines():
            if line.final:
                running.pop(line.record, None)
                yield line
            else:
                running[line.record] = line
        yield from running.values()

    def _lines(self) -> Iterator[UsageLine]:
        try:
            with self._path.open("rb") as file:
                while content := file.readline(LONGEST_LINE):
                    whole = content.endswith(b"\n")
                    try:
                        if whole:
                            yield UsageLine.model_validate_json(content)
                    except ValidationError:
                        self.damaged += 1
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read ({error.strerror}): mend its permissions") from None


if __name__ == "__main__":
    sys.exit(main())
