"""How far the estimates of admission were off, learnt from what requests then really waited."""

SHORTEST_S = 0.5
"""Estimates below this many seconds teach nothing: what a step of the engine takes would count as an error."""

LARGEST = 4.0
"""One request counts at most as this many times its estimate."""

ROUNDS = 8
"""How often all slots are taken while all but 1/e of what was learnt is forgotten: 1/8 each time, RFC 6298's alpha."""

DEVIATIONS = 4
"""Mean deviations above the mean (RFC 6298's K): the mean alone would be exceeded by half of the requests."""

DOUBT = 0.375
"""The mean deviation before anything was learnt: a flood is accepted within a second, and teaches only afterwards. The
first one of a replica waited for up to 2.4 times its estimates (docs/benchmarks.md, Overload)."""


class Correction:
    """The ratio of real to estimated waits. Under overload refusals and the reading of prompts take the engine's cores,
    which what was measured before does not show.

    Mean and mean deviation are smoothed as those of round trips are for TCP's timer (RFC 6298, section 2). Requests
    that take the ``slots`` together err alike, as do several samples of one round trip (RFC 7323, appendix G): together
    they count as one, or a single round would overwrite by how much one differs from the next.
    """

    def __init__(self, slots: int) -> None:
        self._averaged = ROUNDS * slots
        self._mean, self._deviation = 1.0, DOUBT

    @property
    def factor(self) -> float:
        """What to multiply an estimate with; at least 1, so that an engine that became faster is tried with care."""
        return max(1.0, self._mean + DEVIATIONS * self._deviation)

    def learn(self, estimated_s: float, waited_s: float) -> None:
        """A request with this estimate, uncorrected, has waited so long for its first token."""
        if estimated_s >= SHORTEST_S:
            error = min(waited_s / estimated_s, LARGEST) - self._mean
            self._deviation += (abs(error) - self._deviation) / self._averaged
            self._mean += error / self._averaged
