"""The records of a run as flat arrays of moments and values: what the charts put into bins."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest._request import Record
from loadtest._statistics import Array

MOST_GAPS = 2_000_000
"""Of more chunks, every n-th one of each request is taken: percentiles of two million do not move by that."""


@dataclass(frozen=True, slots=True)
class Moments:
    """``t``: seconds since the start of the run; ``values``: seconds, or tokens; ``weights``: tokens."""

    t: Array
    values: Array
    weights: Array | None = None


def latencies(records: Sequence[Record], name: str) -> Moments:
    """One latency of each request that has it, at the moment at which the request was sent."""
    pairs = [(record.sent, value) for record in records if (value := getattr(record, name)) is not None]
    t, values = _columns(pairs, 2)
    return Moments(t, values)


def gaps(records: Sequence[Record]) -> Moments:
    """Inter-token latencies, each at the moment at which its chunk arrived; weighted with the chunk's tokens."""
    step = 1 + sum(len(record.gaps) for record in records) // MOST_GAPS
    parts = []
    for record in records:
        if record.first is not None and record.gaps:
            seconds, tokens = np.array(record.gaps, dtype=np.float64).T
            parts.append(np.stack([record.first + np.cumsum(seconds), seconds / tokens, tokens])[:, ::step])
    joined = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    return Moments(joined[0], joined[1], joined[2])


def tokens(records: Sequence[Record]) -> Moments:
    """Output tokens at the moments at which their chunks arrived, scaled to what the server reports."""
    parts = []
    for record in records:
        if record.first is not None:
            chunks = np.array([(0.0, record.first_chunk_tokens), *record.gaps], dtype=np.float64)
            scale = record.output_tokens / max(1, record.counted_tokens)
            parts.append(np.stack([record.first + np.cumsum(chunks[:, 0]), chunks[:, 1] * scale]))
    joined = np.concatenate(parts, axis=1) if parts else np.empty((2, 0))
    return Moments(joined[0], joined[1])


def moments(records: Sequence[Record], name: str) -> Array:
    """One moment of each record that has it."""
    found = [value for record in records if (value := getattr(record, name)) is not None]
    return np.array(found, dtype=np.float64)


def _columns(rows: Sequence[tuple[float, ...]], width: int) -> Array:
    table: Array = np.array(rows, dtype=np.float64).reshape(-1, width).T
    return table
