"""How fast the engine gives back what requests hold of it, measured while it is at work.

Time in which nothing is held neither counts nor ages anything, so that a night without requests leaves the rates as
they were.
"""

import math
from bisect import bisect_left, insort

MEMORY_S = 60.0
"""Time constant of every rate: what was measured counts by 1/e after this many seconds of work."""

TYPICAL_OF = 32
"""How many ended requests the typical time of holding is an average of, the latest counting most."""


class Rate:
    """Units in each second of work; both fade together, so that the rate is that of the latest work."""

    def __init__(self, now: float) -> None:
        self._units = self._work = 0.0
        self._now = now

    def advance(self, now: float, weight: float) -> None:
        """``weight`` seconds of work were done in each second until ``now``."""
        seconds, self._now = now - self._now, now
        if weight > 0 and seconds > 0:
            kept = math.exp(-seconds / MEMORY_S)
            self._units *= kept
            self._work = self._work * kept + weight * MEMORY_S * (1 - kept)

    def add(self, units: float, work: float = 0) -> None:
        """``units`` were done, with ``work`` seconds of work that ``advance`` was not told of."""
        self._units += units
        self._work += work

    @property
    def value(self) -> float:
        """Units in a second of work; infinite while nothing was measured, so that nobody waits for the unknown."""
        return self._units / self._work if self._units and self._work else math.inf


class Resource:
    """Something of which every request that the engine has begun holds an amount until it ends.

    What is measured is the amount given back in a second by each unit held: how long a unit is held on average. It does
    not depend on how much is held, so that what light load has shown serves for the first burst. Half an amount counts
    when it is taken and half when it is given back: those that hold some are, on average, half way. Without that a
    burst into an idle engine would look as if it were over at once until its first request ends.
    """

    def __init__(self, capacity: int, now: float) -> None:
        self.capacity, self.held = capacity, 0
        self._now, self._turnover = now, Rate(now)
        self._holders: list[tuple[float, int]] = []
        self._typical_s: float | None = None

    def advance(self, now: float) -> None:
        """Nothing was taken or given back until ``now``."""
        self._now = now
        self._turnover.advance(now, self.held)

    def take(self, amount: int, since: float) -> None:
        """``amount`` is held since the time ``since``."""
        self.held += amount
        self._turnover.add(amount / 2, amount * (self._now - since))
        insort(self._holders, (since, amount))

    def give_back(self, amount: int, since: float) -> None:
        """``amount``, held since the time ``since``, is free again."""
        self.held -= amount
        self._turnover.add(amount / 2)
        del self._holders[bisect_left(self._holders, (since, amount))]
        time_held = self._now - since
        typical = time_held if self._typical_s is None else self._typical_s
        self._typical_s = typical + (time_held - typical) / TYPICAL_OF

    @property
    def room(self) -> int:
        """What can be held at once: the capacity, or what is held if the engine has found room for more."""
        return max(self.capacity, self.held)

    @property
    def drain_rate(self) -> float:
        """What is given back in a second while all the room is held; infinite while that is not known."""
        return self.room * self._turnover.value

    def wait_s(self, ahead: int, amount: int) -> float:
        """Seconds until ``ahead`` and then ``amount`` find room; what never fits counts as the whole capacity.

        The rate alone would promise a short wait to whoever comes when everybody has just begun, as after a burst of
        requests that are alike; the ages alone know nothing of requests whose lengths differ. So the longer counts.
        """
        lacking = self.held + ahead + min(amount, self.capacity) - self.room
        return max(lacking / self.drain_rate, self._due_s(lacking)) if lacking > 0 else 0.0

    def _due_s(self, lacking: int) -> float:
        """Seconds until ``lacking`` is given back if everybody holds for the typical time, the oldest ending first."""
        if self._typical_s is None:
            return 0.0
        rounds, rest = divmod(lacking - 1, self.room)
        for since, amount in self._holders:
            rest -= amount
            if rest < 0:
                return since - self._now + (rounds + 1) * self._typical_s
        # By those who find room now.
        return (rounds + 1) * self._typical_s
