"""Command line → settings: one flag for each leaf of the schema, read by pydantic-settings over argparse."""

import json
import shutil
from argparse import SUPPRESS, ArgumentError, ArgumentParser, BooleanOptionalAction, HelpFormatter, Namespace
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, get_args, get_origin

from pydantic_settings import CliSettingsSource

from deploy.errors import UsageError
from deploy.schema import Leaf, schema_of, shown
from deploy.settings import Settings
from deploy.strict_yaml import parse_yaml

NULL = "null"
_WIDTH = 100
_DESCRIPTION = (
    "Serve Mistral 7B over the OpenAI API, with vLLM and Ray Serve. Without flags: a small demo model. "
    "A flag wins over the environment, the environment over the profile, the profile over the defaults below. "
    f"The value {NULL} takes back what a profile or the environment set."
)
_EPILOG = (
    "Every setting also has a flag with its group's name, for example --vllm.max-model-len, and an environment "
    "variable, for example MISTRAL_SERVE_VLLM__MAX_MODEL_LEN. docs/reference/settings.md lists them all."
)


def parse_plain(text: str, source: str) -> Any:
    """The value that ``text`` writes in YAML or JSON, where JSON can hold it too (no dates, no sets).

    Raises:
        UsageError: malformed, or a value of another kind.
    """
    value = parse_yaml(text, f"{source} is {shown(text)}")
    try:
        json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        raise UsageError(f"{source} is {shown(text)}, which JSON cannot hold: put text in quotes") from None
    return value


def _parse_assignment(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    if not key or not value:
        raise UsageError(f"--engine is {shown(text)}: write KEY=VALUE")
    return key, parse_plain(value, f"--engine {key}")


def _metavar(leaf: Leaf) -> str:
    if leaf.kind is dict:
        return "KEY=VALUE"
    if get_origin(leaf.kind) is Literal:
        return "{" + ",".join(get_args(leaf.kind)) + "}"
    return "SECONDS" if leaf.unit == "s" else (leaf.unit or leaf.name).upper()


def _help(leaf: Leaf) -> str:
    allowed = f"{leaf.allowed}; " if leaf.kind in (int, float) else ""
    return f"{leaf.description} [{allowed}default: {leaf.default}]".replace("%", "%%")


class Flags(CliSettingsSource[ArgumentParser]):
    """The settings that a command line gives; its mistakes are collected in ``mistakes``, one sentence each.

    Raises:
        SystemExit: with code 0, after ``--help``.
    """

    def __init__(self, settings_class: type[Settings], argv: Sequence[str]) -> None:
        self.mistakes: list[str] = []
        self._schema = schema_of(settings_class)
        width = min(_WIDTH, shutil.get_terminal_size((_WIDTH, 24)).columns)
        parser = ArgumentParser(
            prog="serve.py",
            usage="%(prog)s [--model MODEL] [FLAG ...]",
            description=_DESCRIPTION,
            epilog=_EPILOG,
            allow_abbrev=False,
            exit_on_error=False,
            formatter_class=partial(HelpFormatter, width=width, max_help_position=30),
        )
        short = {leaf.dotted_flag[2:]: leaf.flag[2:] for leaf in self._schema.leaves.values()}
        super().__init__(
            settings_class,
            cli_parse_args=list(argv),
            cli_parse_none_str=NULL,
            cli_kebab_case=True,
            cli_implicit_flags=True,
            cli_shortcuts={dotted: flag for dotted, flag in short.items() if dotted != flag},
            root_parser=parser,
            add_argument_method=self._add,
            parse_args_method=self._parse,
        )

    def name(self, leaf: Leaf) -> str:
        """How a command line spells ``leaf``."""
        return leaf.flag

    def _add(self, context: Any, *names: str, **options: Any) -> None:
        leaf = self._schema.leaves.get(options["dest"])
        if leaf is None:
            return  # A whole group as one JSON text: each of its settings has a flag instead.
        if options.get("action") is not BooleanOptionalAction:
            options["metavar"] = _metavar(leaf)
        *dotted, shown = names
        context.add_argument(shown, **options | {"help": _help(leaf)})
        for name in dotted:
            context.add_argument(name, **options | {"help": SUPPRESS})

    def _parse(self, parser: ArgumentParser, args: Sequence[str]) -> Namespace:
        try:
            namespace, unknown = parser.parse_known_args(args)
        except ArgumentError as error:
            flag, *others = (error.argument_name or "").split("/")
            remedy = f"takes no value: write {' or '.join([flag, *others])} alone" if others else "needs a value"
            self.mistakes.append(f"{flag} {remedy}")
            return Namespace()
        self._refuse(unknown)
        if hasattr(namespace, "engine"):
            # As one JSON text, because pydantic-settings would split the texts at commas.
            namespace.engine = json.dumps(self._engine(namespace.engine))
        return namespace

    def _engine(self, assignments: Sequence[str]) -> dict[str, Any]:
        values = {}
        for text in assignments:
            try:
                key, value = _parse_assignment(text)
                values[key] = value
            except UsageError as error:
                self.mistakes.append(str(error))
        return values

    def _refuse(self, unknown: Sequence[str]) -> None:
        after_flag = False
        for word in unknown:
            flag = word.partition("=")[0]
            is_flag = flag.startswith("-") and flag.strip("-") != ""
            if flag.removeprefix("--") in self._schema.groups:
                self.mistakes.append(f"{flag} is a group: give {flag}.NAME")
            elif is_flag:
                nearest = self._schema.nearest(flag).flag
                self.mistakes.append(f"unknown flag {flag!r}: the nearest known one is {nearest}")
            elif not after_flag:
                self.mistakes.append(f"unexpected argument {word!r}: settings are given as flags, like --model MODEL")
            after_flag = is_flag and "=" not in word
