"""A point in monotonic time by which something has to be done."""

from __future__ import annotations

from time import monotonic


class Deadline:
    """A deadline; it can be divided so that a slow step does not use up the time of those after it.

    Attributes:
        at: Seconds on the monotonic clock.
    """

    __slots__ = ("at",)

    def __init__(self, at: float) -> None:
        self.at = at

    def remaining(self) -> float:
        """Seconds left.

        Raises:
            TimeoutError: none is.
        """
        left = self.at - monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def left(self) -> float:
        """Seconds left, 0 if none is."""
        return max(0.0, self.at - monotonic())

    def earlier(self, seconds: float) -> Deadline:
        """A deadline that leaves some seconds until this one."""
        return Deadline(self.at - seconds)

    def share(self, steps: int) -> Deadline:
        """The deadline of the first of some steps: half of what is left, all of it for the last.

        Halves and not equal parts: most often only one step is slow, and the steps after it are quick.
        """
        return self if steps <= 1 else Deadline(monotonic() + self.left() / 2)
