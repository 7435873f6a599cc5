"""Paths as the person who started ``serve.py`` meant them, for processes that start in another directory."""

from pathlib import Path
from typing import Any

from deploy.model import is_directory, shipped_templates
from deploy.schema import schema_of
from deploy.settings import Settings


def with_absolute_paths(settings: Settings) -> Settings:
    """``settings`` with every path made absolute, links left as they are: files, a model's directory, a chat template.

    A home directory (``~``) is written out.
    """
    for leaf in schema_of(type(settings)).leaves.values():
        if leaf.kind is Path and (path := _value(settings, leaf.group, leaf.name)) is not None:
            settings = _with(settings, leaf.group, leaf.name, _absolute(path))
    if is_directory(settings.model):
        settings = _with(settings, "", "model", str(_absolute(settings.model)))
    template = settings.vllm.chat_template
    if template is not None and template not in shipped_templates():
        settings = _with(settings, "vllm", "chat_template", str(_absolute(template)))
    return settings


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _value(settings: Settings, group: str, name: str) -> Any:
    return getattr(getattr(settings, group) if group else settings, name)


def _with(settings: Settings, group: str, name: str, value: Any) -> Settings:
    if not group:
        return settings.model_copy(update={name: value})
    return settings.model_copy(update={group: getattr(settings, group).model_copy(update={name: value})})
