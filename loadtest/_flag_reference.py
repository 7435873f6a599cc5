"""The reference page of the load test's flags, made from their declaration: ``python -m loadtest._flag_reference``.

``locust --help`` cannot show them: Locust answers it before it reads any scenario.
"""

from argparse import Action, ArgumentParser
from pathlib import Path

from loadtest._flags import add_flags

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "load-test-flags.md"
HEAD = """\
# Flags of the load test

Made from `loadtest/_flags.py` by `python -m loadtest._flag_reference`. Do not edit it by hand.

They stand beside Locust's own, of which `--host`, `-t`, `-u`, `-r`, `--processes`, `--tags` and `--stop-timeout` matter
here. `locust --help` shows only Locust's. [What arrivals and workloads mean](../workloads.md).

| flag | meaning | default |
| --- | --- | --- |
"""


def render() -> str:
    """The page as Markdown."""
    parser = ArgumentParser(add_help=False)
    add_flags(parser)
    return HEAD + "".join(f"{_row(action)}\n" for action in parser._actions)


def _row(action: Action) -> str:
    choices = None if action.choices is None else ",".join(action.choices)
    value = choices or action.metavar or action.dest.upper()
    default = "" if action.default is None else f"{action.default}"
    help_text, _, said = (action.help or "").partition(" [default: ")
    cells = [f"`{action.option_strings[0]} {value}`", help_text, said.rstrip("]") or default]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
