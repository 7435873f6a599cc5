"""How far the estimates of admission were off, learnt from what requests then really waited."""

SHORTEST_S = 0.5
"""Estimates below this many seconds teach nothing: what a step of the engine takes would count as an error."""

LARGEST = 4.0
"""One request counts at most as this many times its estimate, and so does the factor."""

AVERAGED = 16
"""How many requests the factor is an average of, the latest counting most."""


class Correction:
    """The ratio of real to estimated waits. Under overload refusals and the reading of prompts take the engine's cores,
    which what was measured before does not show.
    """

    def __init__(self) -> None:
        self._ratio = 1.0

    @property
    def factor(self) -> float:
        """What to multiply an estimate with; at least 1, so that an engine that became faster is tried with care."""
        return max(1.0, self._ratio)

    def learn(self, estimated_s: float, waited_s: float) -> None:
        """A request with this estimate, uncorrected, has waited so long for its first token."""
        if estimated_s >= SHORTEST_S:
            self._ratio += (min(waited_s / estimated_s, LARGEST) - self._ratio) / AVERAGED
