"""Prevents a traceback: whatever anybody writes in any source loads or is refused in a plain sentence."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deploy.errors import UsageError
from deploy.loading import load
from deploy.schema import schema_of
from deploy.settings import Settings

INTERNAL = ("pydantic", "https://", "Traceback", "extra_forbidden")


def is_plain(text: str) -> bool:
    """A message repeats the value that was wrong, and Hypothesis tries words that it finds in our own modules."""
    return not any(word in text for word in INTERNAL)


JUNK = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12).filter(is_plain)
KEYS = st.sampled_from([*schema_of().leaves, *schema_of().groups, "engine.x"]) | JUNK
FLAGS = st.sampled_from([flag for leaf in schema_of().leaves.values() for flag in (leaf.flag, leaf.dotted_flag)])
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | JUNK
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(JUNK | KEYS, inner, max_size=3)
)

bounded = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])


def loads_or_is_refused(arguments: dict[str, Any] | None = None, **keywords: Any) -> None:
    try:
        loaded = load(arguments, **keywords)
    except UsageError as error:
        message = str(error)
    else:
        message = "fine"
        assert isinstance(loaded, Settings)
    assert message
    assert [word for word in (*INTERNAL, "\n") if word in message] == []


@bounded
@given(st.lists(FLAGS | JUNK | st.builds("{}={}".format, FLAGS, JUNK), max_size=5))
@example(["--engine", "x=&a [*a]"])
@example(["--engine", "x=!!bool maybe"])
@example(["--engine", "x=!!timestamp never"])
@example(["--engine", "x=!!map [1]"])
@example(["--engine", "x=" + "[" * 5000])
@example(["--engine", "x=" + "9" * 5000])
@example(["--port", "9" * 5000])
@example(["--model", "\udcff"])
@example(["--", "--port", "1"])
@example(["-hx"])
def test_any_command_line_loads_or_is_refused(argv: list[str]) -> None:
    if not {"-h", "--help"} & set(argv):
        loads_or_is_refused(argv=argv)


@bounded
@given(st.dictionaries(KEYS, VALUES, max_size=4))
@example({"engine": {"x": float("nan")}, "vllm": {"seed": 2**70}})
@example({"server.port": 16**9000, "vllm.seed": [16**9000]})
def test_any_arguments_load_or_are_refused(arguments: dict[str, Any]) -> None:
    loads_or_is_refused(arguments)


@bounded
@given(JUNK | st.text(max_size=40).filter(is_plain) | st.dictionaries(KEYS, VALUES, max_size=4).map(yaml.safe_dump))
@example("&a {engine: *a}")
@example("vllm: &a {dtype: *a}")
@example("? [1]\n: 2")
@example("{" * 5000)
@example("vllm: {seed: 0x" + "f" * 9000 + "}")
@example("<<: {model: x}\n<<: {model: y}")
def test_any_profile_loads_or_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "junk.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    loads_or_is_refused(argv=["--profile", str(path)])


@bounded
@given(st.sampled_from([leaf.variable for leaf in schema_of().leaves.values()]), JUNK)
def test_any_variable_loads_or_is_refused(variable: str, value: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, value.replace("\0", ""))
        loads_or_is_refused()
