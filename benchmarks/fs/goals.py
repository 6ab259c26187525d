"""The goals, and whether samples meet them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from benchmarks.fs import contenders as c
from benchmarks.fs.sampling import Samples, percentile

MEMORY_MIB: Final = 150
SPARSE_MIB: Final = 16
CHUNK_KIB: Final = 128


@dataclass(frozen=True)
class Verdict:
    """One line of the table."""

    row: str
    what: str
    goal: str
    figure: str
    met: bool | None  # None: nothing to judge, only reported


def _at_most(row: str, what: str, bound: float, against: str, value: float | None, detail: str = "") -> Verdict:
    if value is None:
        return Verdict(row, what, f"<= {bound:g} x {against}", "not measured", None)
    return Verdict(row, what, f"<= {bound:g} x {against}", f"{value:.2f} x{detail}", value <= bound)


def _at_least(row: str, what: str, bound: float, against: str, value: float | None, detail: str = "") -> Verdict:
    if value is None:
        return Verdict(row, what, f">= {bound:g} x {against}", "not measured", None)
    return Verdict(row, what, f">= {bound:g} x {against}", f"{value:.2f} x{detail}", value >= bound)


def _both(samples: Samples, what: str, one: str, other: str, condition: str = "loopback") -> str:
    values = samples.median(what, one, condition), samples.median(what, other, condition)
    units = {unit for (name, *_), (unit, _) in samples.cells().items() if name == what}
    return " (" + " against ".join("?" if v is None else f"{v:.4g}" for v in values) + f" {', '.join(units)})"


def _names(samples: Samples, ending: str = "", start: str = "") -> list[str]:
    found = dict.fromkeys(sample.what for sample in samples)
    return [what for what in found if what.endswith(ending) and what.startswith(start)]


def _stream(s: Samples) -> Iterator[Verdict]:
    what = "sequential read"
    for who in (c.VOYFS, c.WARM):
        for bound, other in ((0.8, c.RAW), (2, c.SSHFS)):
            ratio = s.ratio(what, who, other)
            name = f"sequential cold read, loopback, `{who}`"
            yield _at_least("stream", name, bound, other, ratio, _both(s, what, who, other))


def _hydrate(s: Samples) -> Iterator[Verdict]:
    for tree in ("big", "root", "small"):
        ratio = s.ratio(tree, c.VOYFS, c.RSYNC)
        yield _at_most("hydrate", f"hydrate `{tree}`", 1.0, "rsync's time", ratio, _both(s, tree, c.VOYFS, c.RSYNC))
    for what in _names(s, start="big: CPU"):
        mine, theirs = s.median(what, c.VOYFS), s.median(what, c.RSYNC)
        figure = f"{mine or 0:.2f} s/GiB; rsync {theirs or 0:.2f}"
        yield Verdict("hydrate", f"CPU per GiB hydrated, {what.rpartition(' ')[2]}", "reported", figure, None)


def _distance(s: Samples) -> Iterator[Verdict]:
    for tree in ("big", "root", "small"):
        near, far = s.median(tree, c.VOYFS, "0 ms"), s.median(tree, c.VOYFS, "14 ms")
        ratio = near / far if near and far else None
        detail = f" ({near:.3g} s and {far:.3g} s)" if near and far else ""
        yield _at_least("distance", f"hydrate `{tree}` at 14 ms", 0.75, "the throughput at 0 ms", ratio, detail)


def _cold_files(s: Samples) -> Iterator[Verdict]:
    for what in _names(s, " files"):
        for who, bound, how in ((c.WARM, 1.0, "off"), (c.VOYFS, 0.5, "on")):
            name = f"{what} cold, on demand, prefetch {how}"
            yield _at_most(
                "cold-files", name, bound, c.SSHFS, s.ratio(what, who, c.SSHFS), _both(s, what, who, c.SSHFS)
            )


def _latency(s: Samples) -> Iterator[Verdict]:
    idle, loaded = (s.values(f"demand read, {how}", c.VOYFS) for how in ("idle", "hydrating"))
    if idle and loaded:
        one, other = percentile(loaded, 0.99), percentile(idle, 0.99)
        detail = f" ({one:.1f} and {other:.1f} ms)"
        yield _at_most("latency", "p99 of a demand read, hydrating", 3, "idle", one / other, detail)
    for what in _names(s, "p99", "append"):
        yield Verdict("latency", what, "reported", f"{s.median(what, c.VOYFS) or 0:.1f} ms", None)


def _local_read(s: Samples) -> Iterator[Verdict]:
    for what in _names(s):
        yield _at_least("local-read", what, 1.0, c.C, s.ratio(what, c.VOYFS, c.C), _both(s, what, c.VOYFS, c.C))


def _local_files(s: Samples) -> Iterator[Verdict]:
    for what in _names(s, "first pass"):
        yield _at_most("local-files", what, 2, c.C, s.ratio(what, c.VOYFS, c.C), _both(s, what, c.VOYFS, c.C))
    for what in _names(s, "second pass"):
        ratio = s.ratio(what, c.VOYFS, c.NATIVE)
        native = s.ratio(what, c.C, c.NATIVE) or 0
        detail = f"{_both(s, what, c.VOYFS, c.NATIVE)[:-1]}; C itself: {native:.2f} x)"
        yield _at_most("local-files", what, 1.5, "native", ratio, detail)


def _writes(s: Samples) -> Iterator[Verdict]:
    for what in _names(s):
        yield _at_most("writes", what, 2, c.C, s.ratio(what, c.VOYFS, c.C), _both(s, what, c.VOYFS, c.C))


def _first_write(s: Samples) -> Iterator[Verdict]:
    name = "first write into an absent {}"
    big, small = (s.median(name.format(file), c.VOYFS) for file in ("big file", "file of one chunk"))
    fetched = s.median(name.format("big file") + ": fetched", c.VOYFS)
    if big is not None and small and fetched is not None:
        figure = f"{big:.1f} ms, {fetched:.0f} KiB fetched; a file of one chunk: {small:.1f} ms"
        met = fetched <= CHUNK_KIB and big <= 2 * small
        yield Verdict("first-write", "first write into a big absent file", "the cost of one chunk", figure, met)


def _memory(s: Samples) -> Iterator[Verdict]:
    for what in _names(s, start="memory"):
        value = s.median(what, c.VOYFS) or 0.0
        bound = None
        if what.endswith("populated"):
            bound = MEMORY_MIB
        elif "sparse" in what:
            bound = SPARSE_MIB
        goal = "reported" if bound is None else f"<= {bound} MiB"
        yield Verdict("memory", what, goal, f"{value:.1f} MiB", None if bound is None else value <= bound)


_JUDGES: Final[Mapping[str, Callable[[Samples], Iterator[Verdict]]]] = {
    "stream": _stream,
    "hydrate": _hydrate,
    "distance": _distance,
    "cold-files": _cold_files,
    "latency": _latency,
    "local-read": _local_read,
    "local-files": _local_files,
    "writes": _writes,
    "first-write": _first_write,
    "memory": _memory,
}


def judge(row: str, samples: Samples) -> list[Verdict]:
    """What the samples of one row say."""
    return list(_JUDGES[row](samples))
