"""The load test's own flags of ``locust``: declared, checked as they are parsed, and turned into a plan."""

import difflib
import math
from argparse import ArgumentTypeError
from collections.abc import Callable, Iterator
from typing import Any

from loadtest import _slo
from loadtest._arrivals import KINDS, Arrivals, Kind, parse_steps
from loadtest._connection import Endpoint
from loadtest._errors import LoadTestError
from loadtest._run_plan import read_trace
from loadtest._workload import load

GROUP = "LLM load test"


def add_flags(parser: Any) -> None:
    """Add them to Locust's parser. A wrong value is one sentence and exit code 2."""
    group = parser.add_argument_group(GROUP, "what to send, when, and what to make of it")
    add = group.add_argument
    add("--report", metavar="DIR", help="write summary.json, requests.csv and report.html into this directory")
    add("--slo", action="append", type=_checked(_slo.parse), metavar="OBJ", help="'ttft_p95<500ms'; repeatable")
    add("--model", help="model to ask for [default: the first that the server lists]")
    # What is in a group does not appear in the web UI: its page must not hold the key.
    add("--api-key", metavar="KEY", help="better given as the variable OPENAI_API_KEY, which `ps` does not show")
    add("--workload", type=_checked(load), metavar="NAME|FILE", help="instead of the scenario's own")
    add("--arrivals", choices=KINDS, help="closed: users; else open loop [default: closed; with --rate: poisson]")
    add("--rate", type=number(1e-3, 1e6), metavar="R", help="open loop: requests/s of all processes together")
    add("--burstiness", type=number(1e-2, 1e3), default=1.0, metavar="K", help="gamma: shape; below 1 is bursty")
    add("--peak", type=number(1e-3, 1e6), metavar="R", help="ramp: last rate; spikes: rate within a spike")
    add("--steps", type=_checked(parse_steps), metavar="R:S,...", help="steps: rates with their seconds")
    add("--spike-every", type=number(0.1, 1e6), default=30.0, metavar="S", help="seconds from spike to spike")
    add("--spike-length", type=number(0.01, 1e6), default=5.0, metavar="S", help="seconds of a spike, its end")
    add("--trace", type=_checked(read_trace), metavar="FILE", help="Azure, BurstGPT, Mooncake or converted trace")
    add("--think-time", type=number(0, 3600), metavar="S", help="closed loop: pause instead of the workload's own")
    add("--seed", type=whole(0, 2**31), default=1, metavar="N", help="of arrivals, lengths and texts")
    add("--nonce", metavar="TEXT", help="begins every prompt, so that no earlier run's cache fits [default: random]")
    add("--warmup", type=number(0, 1e6), metavar="S", help="left out at the beginning [default: a tenth, at most 30]")
    add("--cooldown", type=number(0, 1e6), default=0.0, metavar="S", help="left out at the end")
    add("--request-timeout", type=number(0.1, 86400), default=300.0, metavar="S", help="of a whole request")
    add("--max-in-flight", type=whole(1, 10**6), default=8192, metavar="N", help="of each process; more is dropped")
    add("--server-metrics", action="append", metavar="URL", help="Prometheus pages [default: HOST/metrics]")
    _check_others(parser)


def _checked(check: Callable[[str], Any]) -> Callable[[str], str]:
    """The text itself, once ``check`` accepts it: only plain values travel to worker processes."""

    def text(value: str) -> str:
        try:
            check(value)
        except (LoadTestError, ValueError) as error:
            raise ArgumentTypeError(str(error)) from None
        return value

    return text


def number(least: float, most: float) -> Callable[[str], float]:
    """The type of a flag with bounds."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not least <= value <= most:
            raise ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return parse


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of a flag that takes a whole number."""

    def parse(text: str) -> int:
        value = number(least, most)(text)
        if not value.is_integer():
            raise ArgumentTypeError(f"{text!r} is no whole number")
        return int(value)

    return parse


def _check_others(parser: Any) -> None:
    """Locust's own flags whose mistakes it notices late, or not at all."""
    for action in parser._actions:
        if action.dest == "user_classes":
            action.type = _scenario
        elif action.dest == "host":
            action.type = _checked(Endpoint.parse)


def _scenario(name: str) -> str:
    # Not at the top: importing Locust makes the whole process gevent's.
    from locust import User

    known = sorted({one.__name__ for one in _user_classes(User) if not one.abstract})
    if name not in known:
        own = [one for one in known if one != "PytestUser"]
        nearest = difflib.get_close_matches(name.title().replace("-", ""), own, n=1, cutoff=0)
        raise ArgumentTypeError(f"unknown scenario {name!r}: did you mean {nearest[0]!r}? locust --list shows all")
    return name


def _user_classes(of: Any) -> Iterator[Any]:
    for one in of.__subclasses__():
        yield one
        yield from _user_classes(one)


def arrivals_of(options: Any, default: Kind) -> Arrivals:
    """The arrivals of parsed options. Raises LoadTestError."""
    implied: Kind = "poisson" if options.rate is not None and options.trace is None else default
    kind: Kind = options.arrivals or (default if default != "closed" else implied)
    if kind == "trace" and options.trace is None:
        raise LoadTestError("--arrivals trace needs --trace FILE")
    if options.steps and kind != "steps":
        raise LoadTestError("--steps needs --arrivals steps")
    if options.burstiness != 1 and kind != "gamma":
        raise LoadTestError("--burstiness needs --arrivals gamma")
    arrivals = Arrivals(
        kind=kind,
        rate=options.rate,
        burstiness=options.burstiness,
        peak=options.peak,
        steps=parse_steps(options.steps) if options.steps else (),
        spike_every=options.spike_every,
        spike_length=options.spike_length,
        file=options.trace if kind == "trace" else None,
    )
    if kind == "closed" and options.rate is not None:
        raise LoadTestError("--rate is for open loop: leave out --arrivals closed, or give -u USERS")
    return arrivals
