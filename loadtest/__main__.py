"""``python -m loadtest VERB``: everything about a load test but the run itself, which is ``locust -f loadtest/``."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest._errors import INTERRUPTED, LoadTestError

USAGE_ERROR = 2


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb, and the module with its ``add_arguments`` and ``run``, imported only when it is used."""

    module: str
    help: str
    passes_on: bool = False
    """Whether arguments that it does not know go to Locust."""


VERBS = {
    "selftest": Verb("loadtest._selftest", "how much load this machine measures truthfully"),
    "sweep": Verb("loadtest._sweep", "the highest open-loop rate that meets the objectives", passes_on=True),
    "plan": Verb("loadtest._capacity", "replicas for a rate, and the autoscaling settings"),
    "compare": Verb("loadtest._compare", "whether one run is worse than another"),
    "report": Verb("loadtest._rebuild", "write a run's report.html again"),
    "trace": Verb("loadtest._traces", "inspect and convert traces"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns its exit code, or 2 for a mistake, which is one sentence on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    chosen = words[0] if words else ""
    parser = _parser(chosen)
    arguments, rest = parser.parse_known_args(words)
    verb = VERBS[arguments.verb]
    if rest and not verb.passes_on:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    run = importlib.import_module(verb.module).run
    try:
        code: int = run(arguments, rest) if verb.passes_on else run(arguments)
    except LoadTestError as error:
        print(f"loadtest {arguments.verb}: {error}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _parser(chosen: str) -> argparse.ArgumentParser:
    # No abbreviations: what looks like one may be meant for Locust.
    parser = argparse.ArgumentParser(prog="python -m loadtest", description=__doc__, allow_abbrev=False)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        further = " Every further argument goes to locust." if verb.passes_on else ""
        description = f"{verb.help[0].upper()}{verb.help[1:]}.{further}"
        sub = verbs.add_parser(name, help=verb.help, description=description, allow_abbrev=False)
        if name == chosen:
            importlib.import_module(verb.module).add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
