"""``python -m tests.bench``: measure, write the JSON file, print the report. Progress goes to stderr."""

import argparse
import signal
import sys
from pathlib import Path

from deploy.errors import ServeError
from tests.bench import gateway, overload
from tests.bench.curves import picture
from tests.bench.generators import command as generators
from tests.bench.machine import describe_machine, now, versions
from tests.bench.report import render
from tests.bench.results import Bench, Record, Repeat
from tests.bench.setup import Setup, make_setup, shell_line
from tests.bench.systems import vllm_command, vllm_environment
from tests.bench.throughput import measure_repeats
from tests.bench.transformers_baseline import generate_command
from tests.bench.window import measure_windows
from tests.bench.workload import FULL, OUTPUT_TOKENS, PROMPT_WORDS, QUICK, WARM_UP, Workload

INTERRUPTED = 130
"""Exit code after SIGINT or SIGTERM, as a shell reports the first (128 + SIGINT)."""


def parse(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description="Measure mistral-serve, bare vLLM and transformers in one run on this machine: docs/benchmarks.md. "
        "The first word `loadtest` compares load generators instead: see its own --help.",
    )
    parser.add_argument(
        "part",
        nargs="?",
        choices=("systems", "gateway", "overload"),
        default="systems",
        help="what to measure: the three systems, what the gateway costs, or ten times the load (systems)",
    )
    parser.add_argument(
        "--repeats",
        type=int,
        choices=range(1, 11),
        default=3,
        metavar="N",
        help="interleaved repeats, at most 10 (3)",
    )
    parser.add_argument("--quick", action="store_true", help="one repeat, few requests: for a look, not for figures")
    parser.add_argument("--only", choices=("throughput", "window"), help="of the systems measure one part only")
    parser.add_argument("--output", type=Path, help="JSON file (results/bench.json, or results/PART.json)")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Returns 0 when everything was measured, whatever the figures, otherwise 1, 2 or 130."""
    if argv[:1] == ["loadtest"]:
        return generators.main(argv[1:])
    options = parse(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        bench, text = measure(options)
    except ServeError as error:
        print(f"bench: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("bench: interrupted, nothing written", file=sys.stderr)
        return INTERRUPTED
    output = output_of(options)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(bench.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if isinstance(bench, overload.OverloadBench):
        output.with_suffix(".svg").write_text(picture(bench), encoding="utf-8")
    print(text)
    print(f"written to {output}", file=sys.stderr)
    return 0


def output_of(options: argparse.Namespace) -> Path:
    """The JSON file that is written."""
    name = "bench" if options.part == "systems" else options.part
    return options.output or Path("results") / f"{name}.json"


def measure(options: argparse.Namespace) -> tuple[Record, str]:
    """Measure the part that the options name; returns the record and its report.

    Raises:
        ServeError: something failed to run.
    """
    if options.part == "gateway":
        costs = gateway.run(quick=options.quick, repeats=1 if options.quick else options.repeats)
        return costs, gateway.render(costs)
    if options.part == "overload":
        curves = overload.run(quick=options.quick)
        return curves, overload.render(curves)
    bench = run(options)
    return bench, render(bench)


def run(options: argparse.Namespace) -> Bench:
    """Measure what the options ask for.

    Raises:
        ServeError: something failed to run.
    """
    date, setup = now(), make_setup()
    workload = QUICK if options.quick else FULL
    repeats: list[Repeat] = []
    if options.only != "window":
        repeats = measure_repeats(setup, workload, 1 if options.quick else options.repeats)
    return Bench(
        date=date,
        machine=describe_machine(),
        versions=versions(),
        engine_arguments=setup.arguments,
        commands=commands(setup),
        workload=describe(workload),
        repeats=repeats,
        windows=[] if options.only == "throughput" else measure_windows(),
    )


def describe(workload: Workload) -> dict[str, object]:
    """The workload for the file."""
    return {
        "prompt_words": PROMPT_WORDS,
        "output_tokens": OUTPUT_TOKENS,
        "warm_up_requests": WARM_UP,
        "requests": workload.requests,
        "transformers_batches": workload.batches,
    }


def commands(setup: Setup) -> dict[str, str]:
    """The commands that start the three systems, as one types them."""
    return {
        "mistral-serve": shell_line([sys.executable, "serve.py", "--port", "PORT", *setup.flags], {}),
        "vllm": shell_line(vllm_command(setup, 8000), vllm_environment(setup)),
        "transformers": shell_line(generate_command(setup), {}),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
