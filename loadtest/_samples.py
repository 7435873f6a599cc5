"""The samples of each latency, taken from the records: seconds, and the request that each one belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtest._request import ErrorKind, Record
from loadtest._statistics import Array, Index

COMPLETED_ONLY = ("tpot", "e2e")
"""Latencies that need the end of the answer. The others are counted of failed and cancelled requests too: what a user
waited for before the stream was cut was waited for, and leaving it out would flatter a server that times out."""


@dataclass(slots=True)
class Samples:
    """Values in seconds; ``owners[i]`` is the position of the record of ``values[i]``, ``weights[i]`` its tokens."""

    values: Array
    owners: Index
    weights: Array | None = None

    @property
    def count(self) -> int:
        """Samples; of ITL, tokens."""
        return len(self.values) if self.weights is None else int(self.weights.sum())


def samples_of(records: Sequence[Record], metric: str) -> Samples:
    """The samples of one latency."""
    if metric == "itl":
        return _inter_token(records)
    found = []
    for position, record in enumerate(records):
        if metric in COMPLETED_ONLY and record.error is not None:
            continue
        value = getattr(record, metric)
        if value is not None:
            found.append((value, position))
    values = np.array([value for value, _ in found], dtype=np.float64)
    return Samples(values, np.array([position for _, position in found], dtype=np.int64))


def _inter_token(records: Sequence[Record]) -> Samples:
    gaps = np.array([gap for record in records for gap in record.gaps], dtype=np.float64).reshape(-1, 2)
    owners = np.repeat(np.arange(len(records)), [len(record.gaps) for record in records])
    seconds, tokens = gaps[:, 0], gaps[:, 1]
    return Samples(seconds / tokens, owners, tokens)


def tokens_within(record: Record, window: tuple[float, float]) -> float:
    """Output tokens of one request that arrived within the window.

    Where the chunks hold fewer tokens than the server reports (several in one chunk, counted as one), the difference is
    spread over the chunks.
    """
    start, end = window
    if record.first is None or record.first > end or record.ended < start:
        return 0.0
    if record.first >= start and record.ended <= end:
        return float(record.output_tokens)
    gaps = np.array([(0.0, record.first_chunk_tokens), *record.gaps])
    arrivals = record.first + np.cumsum(gaps[:, 0])
    inside = float(gaps[(arrivals >= start) & (arrivals <= end), 1].sum())
    return inside * record.output_tokens / max(1, record.counted_tokens)


def tokens_on_time(record: Record, ttft_s: float, itl_s: float) -> int:
    """Output tokens that came by their deadline: sent + TTFT bound + k × ITL bound for token k, the first being 0.

    It says more than TPOT: a stall that later tokens make up for does no harm to a reader at that pace, others do.
    """
    if record.first is None:
        return 0
    gaps = np.array([(0.0, record.first_chunk_tokens), *record.gaps])
    arrivals = record.first - record.sent + np.cumsum(gaps[:, 0])
    tokens = gaps[:, 1]
    # Tokens with this number or a larger one were not due yet when their chunk arrived.
    earliest_on_time = np.ceil((arrivals - ttft_s) / itl_s - 1e-9)
    before = np.cumsum(tokens) - tokens
    return int(np.clip(before + tokens - np.maximum(before, earliest_on_time), 0, tokens).sum())


def cut_by_server(record: Record) -> bool:
    """Whether the server was not there, or went away: connection refused or lost, or no answer in time."""
    return record.error in (ErrorKind.CONNECT, ErrorKind.CUT, ErrorKind.TIMEOUT)
