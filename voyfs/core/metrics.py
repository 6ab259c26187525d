"""Figures of a running mount, and how Prometheus wants them written (text format 0.0.4).

Pure. The format needs no library: names and labels are ours, and none needs escaping.
"""

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Seconds. A fetch on loopback takes about 1 ms; a lost link, minutes.
WAIT_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 60.0)


class Histogram:
    """How often which size was seen, by upper bounds; the last count is of what is above all of them."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = WAIT_BOUNDS) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(frozen=True, slots=True)
class Family:
    """A metric: its values by labels, or one histogram."""

    name: str
    kind: str  # counter, gauge or histogram
    help: str
    values: Mapping[tuple[tuple[str, str], ...], float] = field(default_factory=dict)
    histogram: Histogram | None = None


def exposition(families: Sequence[Family]) -> bytes:
    """All of them as text, one sample a line."""
    return "".join(line + "\n" for family in families for line in _lines(family)).encode()


def _lines(family: Family) -> Iterator[str]:
    yield f"# HELP {family.name} {family.help}"
    yield f"# TYPE {family.name} {family.kind}"
    for labels, value in family.values.items():
        inside = ",".join(f'{name}="{text}"' for name, text in labels)
        yield f"{family.name}{{{inside}}} {value:.17g}" if inside else f"{family.name} {value:.17g}"
    if (histogram := family.histogram) is not None:
        below = 0
        for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
            below += count
            yield f'{family.name}_bucket{{le="{bound}"}} {below}'
        yield f"{family.name}_sum {histogram.total:.17g}"
        yield f"{family.name}_count {below}"
