"""The time that a choice may take, over all its parts."""

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds from any start


class Budget:
    """A budget of ``seconds``, some of which an earlier part of the same choice has ``spent``.

    >>> times = iter([0, 10, 40, 61])
    >>> budget = Budget(60, clock=lambda: next(times))
    >>> budget.allows(45), budget.allows(45), budget.is_over()
    (True, False, True)
    """

    def __init__(self, seconds: float, *, spent: float = 0, clock: Clock = time.monotonic):
        self.seconds, self.spent, self.clock = seconds, spent, clock
        self._started = clock()

    @property
    def spent_s(self) -> float:
        """Seconds spent so far, in all parts."""
        return self.spent + self.clock() - self._started

    def allows(self, seconds: float) -> bool:
        """Return whether something that takes so long ends within the budget."""
        return self.spent_s + seconds <= self.seconds

    def is_over(self) -> bool:
        """Return whether the time is up."""
        return self.spent_s >= self.seconds
