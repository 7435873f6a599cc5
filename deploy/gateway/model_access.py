"""Holds a key to the models it may use."""

from typing import Any

from deploy.gateway.errors import model_not_allowed
from deploy.gateway.key_file import Key


def check_model(key: Key, body: dict[str, Any]) -> None:
    """Let the key's models pass.

    Raises:
        Refused: a model that the key does not list, or no model where the key lists some.
    """
    if key.models is None:
        return
    model = body.get("model")
    # vLLM takes its own model where none is named, so naming none must not open it.
    if not model:
        raise model_not_allowed(f"Name the model: this key may use {', '.join(key.models)}.")
    if model not in key.models:
        raise model_not_allowed(f"This key may not use that model: it may use {', '.join(key.models)}.")
