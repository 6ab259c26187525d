"""How fast a count grows.

Pure: times come in as seconds of any clock that only goes forward.
"""

from __future__ import annotations

from collections import deque
from typing import Final

SECONDS: Final = 5.0  # that a rate is taken over: as voyfs does


class Pace:
    """Takes a count in now and then."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._taken: deque[tuple[float, int]] = deque()

    def take(self, now: float, count: int) -> None:
        """COUNT is what it is at NOW."""
        self._taken.append((now, count))
        while len(self._taken) > 2 and self._taken[1][0] <= now - SECONDS:
            self._taken.popleft()

    @property
    def rate(self) -> float:
        """A second, over the last few; 0 where that is not known."""
        if not self._taken:
            return 0.0
        (start, before), (end, now) = self._taken[0], self._taken[-1]
        return (now - before) / (end - start) if end > start else 0.0
