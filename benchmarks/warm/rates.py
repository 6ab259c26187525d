"""Transactions a second around a migration, from what pgbench tells each second. Pure."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

SECONDS: Final = 10.0
_PROGRESS: Final = re.compile(r"^progress: ([0-9.]+) s, ([0-9.]+) tps", re.MULTILINE)


@dataclass(frozen=True)
class Rates:
    """Transactions a second: in the 10 s before the migration, in the first 10 after the resume, in 10 at the end."""

    before: float
    first: float
    later: float


@dataclass(frozen=True)
class _Interval:
    """About a second, of the machine's clock."""

    start: float
    end: float
    transactions: float


def rates(said: str, begun: float, resumed: float, done: float) -> Rates:
    """Of what pgbench said with --progress-timestamp; the migration began, its container resumed, all was over.

    Times are seconds of the machine's clock. The second that the freeze ends in is left out, for it is the freeze's.
    Raises ValueError where pgbench said too little.
    """
    intervals = list(_intervals(said))
    return Rates(
        before=_rate([each for each in intervals if begun - SECONDS <= each.start and each.end <= begun]),
        first=_rate([each for each in intervals if resumed <= each.start and each.end <= resumed + SECONDS + 1]),
        later=_rate([each for each in intervals if done <= each.start and each.end <= done + SECONDS + 1]),
    )


def _intervals(said: str) -> Iterator[_Interval]:
    found = [(float(end), float(rate)) for end, rate in _PROGRESS.findall(said)]
    for (start, _), (end, rate) in itertools.pairwise(found):
        yield _Interval(start, end, rate * (end - start))


def _rate(intervals: list[_Interval]) -> float:
    if not intervals:
        raise ValueError("pgbench did not tell how it went all the time")
    return sum(each.transactions for each in intervals) / sum(each.end - each.start for each in intervals)
