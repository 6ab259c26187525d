"""Rows about bringing everything over: against rsync, with distance, and what it costs both ends."""

from __future__ import annotations

from typing import Final

from benchmarks.fs import contenders as c
from benchmarks.fs.bench import Bench
from benchmarks.fs.sampling import in_turn
from benchmarks.fs.scene import LINKS, LOOPBACK, RELAYED, Wire

TREES: Final = ("big", "root", "small")
GIB: Final = 1 << 30


def hydrate(bench: Bench) -> None:
    """Mount and hydrate against one rsync, both from nothing to all bytes in the page cache; the source's is warm."""
    for tree in TREES:
        for who in in_turn((c.VOYFS, c.RSYNC), bench.counts.runs):
            _copy(bench, who, tree, LOOPBACK)
    if bench.counts.patient:
        for wire in LINKS:
            for who in in_turn((c.VOYFS, c.RSYNC), max(1, bench.counts.runs // 2)):
                _copy(bench, who, "big", wire)


def distance(bench: Bench) -> None:
    """The same through the relay, which costs processor time itself: 14 ms are to be held against 0 ms there."""
    for tree in TREES:
        wires = {wire.name: wire for wire in RELAYED if bench.counts.patient or wire.rtt_ms != 2}
        for number, name in enumerate(in_turn(list(wires), bench.counts.runs)):
            _copy(bench, c.VOYFS, tree, wires[name])
            if bench.counts.patient and number < len(wires):  # told, not judged: once is enough
                _copy(bench, c.RSYNC, tree, wires[name])


def _copy(bench: Bench, who: str, tree: str, wire: Wire) -> None:
    scene = bench.scene
    path = scene.a.path_of(scene.tree(tree))
    bench.settle(path)
    copied = c.copy(scene, who, tree, wire)
    bench.take(tree, who, copied.seconds, "s", wire.name)
    if wire == LOOPBACK:
        gib = bench.scene.size_of(tree) / GIB
        bench.take(f"{tree}: CPU at the reader", who, copied.reader_cpu / gib, "s/GiB")
        bench.take(f"{tree}: CPU at the source", who, copied.source_cpu / gib, "s/GiB")
