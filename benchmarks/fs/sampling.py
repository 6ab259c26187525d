"""Samples, and how a run takes them: contenders in turn, each first once, when the machine is quiet."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

QUIET_BUSY: Final = 0.15  # of all processors: less than this counts as quiet
LOOK_SECONDS: Final = 0.25


@dataclass(frozen=True)
class Sample:
    """One measured value."""

    row: str
    what: str  # the operation or the data
    contender: str
    condition: str  # of the wire
    value: float
    unit: str
    load: float  # of the machine by others, just before: 0 to 1


class Samples(list[Sample]):
    """What was measured, in order."""

    def values(self, what: str, contender: str, condition: str = "loopback") -> list[float]:
        """All values of one cell."""
        cell = what, contender, condition
        return [sample.value for sample in self if (sample.what, sample.contender, sample.condition) == cell]

    def median(self, what: str, contender: str, condition: str = "loopback") -> float | None:
        """Of one cell; None where nothing was measured."""
        values = self.values(what, contender, condition)
        return statistics.median(values) if values else None

    def ratio(self, what: str, one: str, other: str, condition: str = "loopback") -> float | None:
        """Of the medians of two contenders."""
        top, bottom = self.median(what, one, condition), self.median(what, other, condition)
        return None if top is None or not bottom else top / bottom

    def cells(self) -> dict[tuple[str, str, str], tuple[str, list[float]]]:
        """By (what, contender, condition): unit and values."""
        found: dict[tuple[str, str, str], tuple[str, list[float]]] = {}
        for sample in self:
            found.setdefault((sample.what, sample.contender, sample.condition), (sample.unit, []))[1].append(
                sample.value
            )
        return found


def in_turn(contenders: Sequence[str], runs: int) -> Iterator[str]:
    """Every contender RUNS times; nobody always comes after the same other."""
    for run in range(runs):
        shift = run % len(contenders) if contenders else 0
        yield from (*contenders[shift:], *contenders[:shift])


def percentile(values: Sequence[float], share: float) -> float:
    """The nearest rank: the smallest value that at least SHARE of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def busy() -> float:
    """What share of the processors is in use right now."""

    def look() -> tuple[int, int]:
        ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        return sum(ticks), ticks[3] + ticks[4]

    total, idle = look()
    time.sleep(LOOK_SECONDS)
    total_then, idle_then = look()
    return 1 - (idle_then - idle) / max(1, total_then - total)


def wait_quiet(seconds: float) -> float:
    """Wait until nobody else uses the machine, at most SECONDS; what share is in use then."""
    deadline = time.monotonic() + seconds
    while (share := busy()) > QUIET_BUSY and time.monotonic() < deadline:
        pass
    return share


class Stalls:
    """Notices when this process, and so what it measures, was stopped from outside for a while."""

    TICK: Final = 0.2
    LONG: Final = 2.0  # of a machine under load a thread may well wait for a second

    def __init__(self) -> None:
        """It watches as long as the process lives."""
        self.last = -1.0  # when the last one ended
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            before = time.monotonic()
            time.sleep(self.TICK)
            if time.monotonic() - before > self.LONG:
                self.last = time.monotonic()


def ticks_of(pids: Sequence[int]) -> float:
    """Processor seconds of processes, of their threads and of their children that have ended."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += sum(int(field) for field in fields[11:15])
    return total / os.sysconf("SC_CLK_TCK")


def with_children(pid: int) -> list[int]:
    """PID and all below it."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            try:
                found += [int(word) for word in task.read_text().split()]
            except OSError:
                pass
    return found
