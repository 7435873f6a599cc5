"""Who may call which route of vLLM's app, while keys are on. A route that is not listed serves nobody."""

import re
from enum import Enum


class Rule(Enum):
    """Who may call a route."""

    OPEN = "everybody, without a key"
    KEY = "whoever has a key"
    CLOSED = "nobody"


METRICS = "/metrics"

RULES = {
    # Load balancers and probes.
    "/health": Rule.OPEN,
    # Using the model.
    "/v1/models": Rule.KEY,
    "/v1/models/{model:path}": Rule.KEY,
    "/v1/chat/completions": Rule.KEY,
    "/v1/completions": Rule.KEY,
    "/v1/responses": Rule.KEY,
    "/v1/responses/{response_id}": Rule.KEY,
    "/v1/responses/{response_id}/cancel": Rule.KEY,
    "/v1/messages": Rule.KEY,
    "/v1/messages/count_tokens": Rule.KEY,
    "/tokenize": Rule.KEY,
    "/detokenize": Rule.KEY,
    # Second doors to the model, with bodies of their own.
    "/invocations": Rule.CLOSED,
    "/generative_scoring": Rule.CLOSED,
    "/inference/v1/generate": Rule.CLOSED,
    "/v1/chat/completions/batch": Rule.CLOSED,
    # Between the halves of a split deployment.
    "/v1/chat/completions/render": Rule.CLOSED,
    "/v1/chat/completions/derender": Rule.CLOSED,
    "/v1/completions/render": Rule.CLOSED,
    "/v1/completions/derender": Rule.CLOSED,
    "/v1/messages/render": Rule.CLOSED,
    # Changing the engine.
    "/scale_elastic_ep": Rule.CLOSED,
    "/is_scaling_elastic_ep": Rule.CLOSED,
    # About the server.
    METRICS: Rule.CLOSED,
    "/load": Rule.CLOSED,
    "/ping": Rule.CLOSED,
    "/version": Rule.CLOSED,
    "/openapi.json": Rule.CLOSED,
    "/docs": Rule.CLOSED,
    "/docs/oauth2-redirect": Rule.CLOSED,
    "/redoc": Rule.CLOSED,
}
"""Path templates as FastAPI writes them. A test compares them with the routes of the installed vLLM."""

SECOND_DOORS = {
    "/invocations",
    "/generative_scoring",
    "/inference/v1/generate",
    "/v1/chat/completions/batch",
}
"""Routes that reach the model past what looks into the bodies of ``GENERATING``."""

GENERATING = {"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"}
"""The routes that produce tokens."""

JSON_ROUTES = GENERATING | {"/v1/messages/count_tokens", "/tokenize", "/detokenize"}
"""The open routes whose body is a JSON object."""


def _pattern(template: str) -> re.Pattern[str]:
    """What a template of FastAPI's matches: ``{name}`` one segment of a path, ``{name:path}`` all the rest of it."""
    rest = re.sub(r"\{\w+:path\}", ".+", template)
    return re.compile(re.sub(r"\{\w+\}", "[^/]+", rest))


_TEMPLATES = [(_pattern(template), template) for template in RULES if "{" in template]
UNKNOWN = "unknown"


def template_of(path: str) -> str:
    """The listed template that a decoded path matches; ``UNKNOWN`` for one that is no listed route."""
    # Starlette's patterns end with `$`, which matches before a trailing line end too.
    path = path.removesuffix("\n")
    if path in RULES:
        return path
    return next((template for pattern, template in _TEMPLATES if pattern.fullmatch(path)), UNKNOWN)


def rule_of(path: str) -> Rule | None:
    """The rule of a decoded path; ``None`` for one that is no listed route."""
    return RULES.get(template_of(path))
