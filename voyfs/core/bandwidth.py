"""A limit on bytes a second: how long the next of them has to wait.

Pure: the clock is the caller's. What is spent makes a debt that the rate pays off; the next piece may start once
there is none. So over any time at most the rate's share passes, and one piece more.
"""

import re

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
MOST = 1 << 62  # bytes, or bytes a second: more is a mistake
_RATE = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)([KMGT]?)", re.ASCII)


def parse_rate(text: str) -> int:
    """Bytes a second of "50M", "1.5G" or "2000000"; 0 is no limit. Raises ValueError."""
    found = _RATE.fullmatch(text.strip().upper())
    if found is None:
        raise ValueError(f"{text!r} is not a rate; write bytes a second as 50M, 1.5G or 2000000, and 0 for no limit")
    rate = int(float(found[1]) * _UNITS[found[2]])
    if not rate and float(found[1]):
        raise ValueError(f"{text!r} is less than a byte a second; 0 means no limit")
    if rate >= MOST:
        raise ValueError(f"{text!r} is a rate beyond any link; 0 means no limit")
    return rate


class Allowance:
    """What may be spent at a `rate` in bytes a second (0: anything); times in seconds on one clock."""

    def __init__(self, rate: int, debt: float = 0.0, at: float = 0.0) -> None:
        """`debt` in bytes was what is owed, at the time `at`."""
        self._rate = rate
        self._debt = debt
        self._at = at

    @property
    def rate(self) -> int:
        return self._rate

    @property
    def debt(self) -> float:
        """In bytes, when it was last asked or changed."""
        return self._debt

    def change(self, rate: int, now: float) -> None:
        """Another rate from now on; what is owed stays owed."""
        self._pay(now)
        self._rate = rate

    def delay(self, now: float) -> float:
        """Seconds until something may be spent."""
        self._pay(now)
        return self._debt / self._rate if self._rate else 0.0

    def spend(self, size: int, now: float) -> None:
        """`size` bytes pass; negative: so many of those that were spent did not."""
        self._pay(now)
        if self._rate:
            self._debt = max(0.0, self._debt + size)

    def _pay(self, now: float) -> None:
        if self._rate:
            self._debt = max(0.0, self._debt - (now - self._at) * self._rate)
        else:
            self._debt = 0.0
        self._at = now
