"""What requests may come to need of a replica, and what a replica has."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Demand:
    """What requests may come to need: bytes of KV cache, sequences, and prompt tokens to be read."""

    kv_bytes: int = 0
    sequences: int = 0
    prompt_tokens: int = 0

    def add(self, other: "Demand", sign: int = 1) -> None:
        """Add ``other``, or with a ``sign`` of -1 take it away."""
        self.kv_bytes += sign * other.kv_bytes
        self.sequences += sign * other.sequences
        self.prompt_tokens += sign * other.prompt_tokens


@dataclass(frozen=True)
class Capacity:
    """What one replica has.

    ``bytes_per_sequence`` gives the most bytes of KV cache that a sequence of so many tokens holds at any time.
    ``chunk``: prompt tokens that the engine reads in one step. ``max_queued``: sequences that may wait for a slot.
    """

    kv_bytes: int
    bytes_per_sequence: Callable[[int], int]
    chunk: int
    max_num_seqs: int
    max_queued: int

    def demand(self, prompt_tokens: int, max_tokens: int, n: int = 1) -> Demand:
        """The demand of ``n`` completions of one prompt, each of at most ``max_tokens`` tokens."""
        return Demand(self.bytes_per_sequence(prompt_tokens + max_tokens) * n, n, prompt_tokens * n)
