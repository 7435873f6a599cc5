"""Settings from everywhere: defaults < profile YAML < ``MISTRAL_SERVE_*`` environment < arguments < flags.

pydantic-settings merges the sources and validates the result. Every mistake becomes one plain sentence that names the
place where a person made it.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from deploy.errors import UsageError
from deploy.flags import Flags
from deploy.schema import Leaf, schema_of
from deploy.settings import Settings
from deploy.sources import Environment, Given, Profile

S = TypeVar("S", bound=Settings)
Source = Flags | Given


@overload
def load(arguments: Mapping[str, Any] | None = None, *, argv: Sequence[str] | None = None) -> Settings: ...


@overload
def load(
    arguments: Mapping[str, Any] | None = None, *, argv: Sequence[str] | None = None, settings_class: type[S]
) -> S: ...


def load(
    arguments: Mapping[str, Any] | None = None,
    *,
    argv: Sequence[str] | None = None,
    settings_class: type[Settings] = Settings,
) -> Settings:
    """The settings of one deployment.

    Args:
        arguments: what ``serve run`` or a RayService gives: nested mappings or dotted keys; the values may be text.
        argv: the command line without the program's name; ``None`` where there is no command line.
        settings_class: ``Settings``, or a subclass that adds flags of its own.

    Raises:
        UsageError: every mistake in every source, one sentence each, joined by "; ".
        SystemExit: with code 0, after ``--help``.
    """
    sources: list[Source] = [] if argv is None else [Flags(settings_class, argv)]
    sources += [Given(settings_class, arguments or {}), Environment(settings_class), Profile(settings_class)]
    # How pydantic-settings takes the sources of this one call, highest first.
    build: dict[str, Any] = {"_build_sources": (tuple(sources), {})}
    settings = None
    invalid: list[str] = []
    try:
        settings = settings_class(**build)
    except ValidationError as error:
        invalid = _sentences(error, settings_class, sources)
    mistakes = [mistake for source in sources for mistake in source.mistakes] + invalid
    if settings is None or mistakes:
        raise UsageError("; ".join(dict.fromkeys(mistakes)))
    return settings


def _sentences(error: ValidationError, settings_class: type[Settings], sources: Sequence[Source]) -> list[str]:
    leaves = schema_of(settings_class).leaves
    sentences = []
    for detail in error.errors(include_url=False):
        if detail["type"] == "value_error":  # from the settings' own checks
            sentences.append(str(detail["ctx"]["error"]))
            continue
        path = [str(part) for part in detail["loc"]]
        leaf = leaves.get(".".join(path[:2])) or leaves[path[0]]
        name, value = _origin(leaf, sources)
        sentences.append(leaf.refusal(name, value))
    return sentences


def _origin(leaf: Leaf, sources: Sequence[Source]) -> tuple[str, Any]:
    """What the highest source that gives ``leaf`` calls it, and the value it gives."""
    for source in sources:
        values = source()
        group = values.get(leaf.group, {}) if leaf.group else values
        if leaf.name in group:
            return source.name(leaf), group[leaf.name]
    raise AssertionError(f"the default of {leaf.key} is not valid")
