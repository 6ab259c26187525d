"""What every row is given: the scene, how often to repeat, and where samples go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.fs.sampling import Sample, Samples, Stalls
from benchmarks.fs.scene import Scene

MIB: Final = 1 << 20


@dataclass(frozen=True)
class Counts:
    """How often and how much."""

    runs: int
    many: int  # of what takes little time
    probes: int  # reads of one latency run
    patient: bool  # also what takes long and judges nothing


FULL: Final = Counts(runs=3, many=5, probes=300, patient=True)
SHORT: Final = Counts(runs=1, many=1, probes=150, patient=False)


class Bench:
    """One row under way."""

    def __init__(self, row: str, scene: Scene, counts: Counts, say: Callable[[str], None]) -> None:
        """SAY tells people how it goes on."""
        self.row = row
        self.scene = scene
        self.counts = counts
        self.samples = Samples()
        self._say = say
        self._load = 0.0
        self._stalls = Stalls()
        self._settled = 0.0

    def settle(self, *warm: Path) -> None:
        """Empty all caches, read WARM in again, wait for a quiet machine."""
        self._load = self.scene.settle(*warm)
        self._settled = time.monotonic()

    def sample(self, what: str, contender: str, value: float, unit: str, condition: str = "loopback") -> Sample:
        """One sample, not kept."""
        return Sample(self.row, what, contender, condition, value, unit, round(self._load, 2))

    def take(self, what: str, contender: str, value: float, unit: str, condition: str = "loopback") -> None:
        """Keep a sample."""
        if self._stalls.last > self._settled:
            self._say(f"  {what}, {contender}, {condition}: not kept, everything was stopped for a while")
            return
        sample = self.sample(what, contender, value, unit, condition)
        self.samples.append(sample)
        busy = f"   (others use {sample.load:.0%})" if sample.load > 0.15 else ""
        self._say(f"  {what}, {contender}, {condition}: {value:.4g} {unit}{busy}")

    def fail(self, what: str, contender: str, why: BaseException) -> None:
        """A contender could not do it; the others go on."""
        self._say(f"  {what}, {contender}: failed: {str(why).strip()[-300:]}")
