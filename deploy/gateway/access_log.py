"""The access log: one line for every finished request, without its text and without its key."""

import json
import logging
from datetime import UTC, datetime
from typing import Any

from deploy.gateway.log_sink import Sink
from deploy.gateway.observed import broken, ended_at, method_of, model_of, stages
from deploy.gateway.request import RequestRecord
from deploy.settings import LogSettings

PROBES = {"/health", "/metrics"}
"""Routes that machines ask again and again: their lines are written at level ``debug`` while they go well."""

_STAGES = ("gateway", "queue", "prefill", "decode")


class AccessLog:
    """An observer that writes lines of ``settings.level`` or above, as JSON objects or for the eye.

    The level of a line is ``error`` for 5xx and for an answer that broke off or ended with an error, ``warning`` for
    4xx, else ``info``.
    Lines that ``sink`` refuses are lost; the next one that it takes is preceded by one that says how many were.
    """

    def __init__(self, sink: Sink, settings: LogSettings, served_model: str) -> None:
        self._sink, self._served_model = sink, served_model
        self._least = _severity(settings.level)
        self._render = _json if settings.format == "json" else _console
        self._lost = 0

    def __call__(self, record: RequestRecord) -> None:
        """Write the line of an ended request."""
        if record.ended is None:
            return
        level = _level(record)
        if _severity(level) >= self._least:
            self._write(_fields(record, level, self._served_model))

    def _write(self, fields: dict[str, Any]) -> None:
        if self._lost:
            notice = {"time": fields["time"], "level": "warning", "lines_lost": self._lost}
            self._lost = 0 if self._sink(self._render(notice)) else self._lost
        if self._lost or not self._sink(self._render(fields)):
            self._lost += 1


def _severity(level: str) -> int:
    return logging.getLevelNamesMapping()[level.upper()]


def _level(record: RequestRecord) -> str:
    if record.status >= 500 or broken(record):
        return "error"
    if record.status >= 400:
        return "warning"
    return "debug" if record.route in PROBES else "info"


def _fields(record: RequestRecord, level: str, served_model: str) -> dict[str, Any]:
    assert record.ended is not None
    known = {stage.name: stage.seconds for stage in stages(record)}
    return {
        "time": _utc(ended_at(record)),
        "level": level,
        "request_id": record.id,
        "key": record.key_name,
        "model": model_of(record, served_model),
        "method": method_of(record),
        "route": record.route,
        "status": record.status,
        "prompt_tokens": record.prompt_tokens,
        "completion_tokens": record.completion_tokens,
        "duration_ms": _ms(record.ended - record.received),
        **{f"{name}_ms": _ms(known[name]) if name in known else None for name in _STAGES},
        "hung_up": record.hung_up,
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 1)


def _utc(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(fields: dict[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))


def _console(fields: dict[str, Any]) -> str:
    """Columns of a fixed width, the ones of any length last."""
    start = f"{fields['time']} access {fields['level'].upper():<7}"
    if "lines_lost" in fields:
        return f"{start} {fields['lines_lost']} lines were lost here: they came faster than they could be written"
    parts = "  ".join(f"{name} {_number(fields[f'{name}_ms']):>7}" for name in _STAGES)
    request = f"{fields['status']:>3} {fields['method']:<6} {fields['route']:<22}"
    tokens = f"{fields['prompt_tokens']:>6}+{fields['completion_tokens']:<6}"
    names = f"key={fields['key'] or '-'} model={fields['model'] or '-'} id={fields['request_id']}"
    hung_up = " hung up" if fields["hung_up"] else ""
    return f"{start} {request} {tokens} {fields['duration_ms']:>9} ms  {parts}  {names}{hung_up}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value}"
