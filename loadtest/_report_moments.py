"""The records of a run as flat arrays of moments and values: what the charts put into bins."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtest._request import Record
from loadtest._statistics import Array, Index

MOST_GAPS = 2_000_000
"""Of more chunks, every n-th one of each request is taken: percentiles of two million do not move by that."""


@dataclass(frozen=True, slots=True)
class Moments:
    """``t``: seconds since the start of the run; ``values``: seconds, or tokens; ``weights``: tokens.

    ``owners[i]`` is the position of the record of ``values[i]``.
    """

    t: Array
    values: Array
    owners: Index
    weights: Array | None = None

    def of(self, chosen: NDArray[np.bool_]) -> "Moments":
        """Those of some records only, one truth value for each."""
        mine = chosen[self.owners]
        weights = None if self.weights is None else self.weights[mine]
        return Moments(self.t[mine], self.values[mine], self.owners[mine], weights)


def latencies(records: Sequence[Record], name: str) -> Moments:
    """One latency of each request that has it, at the moment at which the request was sent."""
    rows = [
        (record.sent, value, position)
        for position, record in enumerate(records)
        if (value := getattr(record, name)) is not None
    ]
    t, values, owners = np.array(rows, dtype=np.float64).reshape(-1, 3).T
    return Moments(t, values, owners.astype(np.int64))


def gaps(records: Sequence[Record]) -> Moments:
    """Inter-token latencies, each at the moment at which its chunk arrived; weighted with the chunk's tokens."""
    step = 1 + sum(len(record.gaps) for record in records) // MOST_GAPS
    parts = []
    for position, record in enumerate(records):
        if record.first is not None and record.gaps:
            seconds, tokens = np.array(record.gaps, dtype=np.float64).T
            owners = np.full(len(tokens), position, dtype=np.float64)
            parts.append(np.stack([record.first + np.cumsum(seconds), seconds / tokens, owners, tokens])[:, ::step])
    t, values, owners, weights = np.concatenate(parts, axis=1) if parts else np.empty((4, 0))
    return Moments(t, values, owners.astype(np.int64), weights)


def tokens(records: Sequence[Record]) -> Moments:
    """Output tokens at the moments at which their chunks arrived, scaled to what the server reports."""
    parts = []
    for position, record in enumerate(records):
        if record.first is not None:
            chunks = np.array([(0.0, record.first_chunk_tokens), *record.gaps], dtype=np.float64)
            scale = record.output_tokens / max(1.0, float(chunks[:, 1].sum()))
            owners = np.full(len(chunks), position, dtype=np.float64)
            parts.append(np.stack([record.first + np.cumsum(chunks[:, 0]), chunks[:, 1] * scale, owners]))
    t, values, owners = np.concatenate(parts, axis=1) if parts else np.empty((3, 0))
    return Moments(t, values, owners.astype(np.int64))


def moments(records: Sequence[Record], name: str) -> Array:
    """One moment of each record that has it."""
    found = [value for record in records if (value := getattr(record, name)) is not None]
    return np.array(found, dtype=np.float64)
