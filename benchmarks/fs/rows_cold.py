"""Rows about what is not local yet: the first read of a big file and of many files, and reads while hydration runs."""

from __future__ import annotations

import sys
from typing import Final

from benchmarks.fs import contenders as c
from benchmarks.fs.bench import MIB, Bench
from benchmarks.fs.sampling import in_turn, percentile
from benchmarks.fs.scene import LINKS, LONG, LOOPBACK, RAW_PORT, RELAYED, TOOLS, Wire, Words, voyfs_status, work
from benchmarks.lab.node import LabError

READ: Final = "sequential read"
FILES: Final = "files"


def stream(bench: Bench) -> None:
    """A big file from its start to its end, the source's page cache warm; also over longer and narrower wires."""
    scene = bench.scene
    big = scene.a.path_of(scene.tree("big"))
    for who in in_turn((c.VOYFS, c.WARM, c.RAW, c.SSHFS, c.RCLONE), bench.counts.runs):
        bench.settle(big)
        _read(bench, who, LOOPBACK)
    for wire in (*RELAYED, *(LINKS if bench.counts.patient else ())):
        others = (c.SSHFS,) if bench.counts.patient else ()
        for who in in_turn((c.VOYFS, c.WARM, c.RAW, *others), max(1, bench.counts.runs // 2)):  # told, not judged
            bench.settle(big)
            _read(bench, who, wire)
    scene.drop("big")


def _read(bench: Bench, who: str, wire: Wire) -> None:
    scene = bench.scene
    try:
        if who == c.RAW:
            scene.raw_server()
            with scene.wire(wire, RAW_PORT) as far:
                words = [sys.executable, "-m", "benchmarks.fs.raw_stream", "read", far.at, "/big"]
                words[-1] = str(scene.tree("big") / "big")
                done = far.reader.run(words, timeout=LONG, env=scene.environment)
                seconds, size = (float(word) for word in done.stdout.split())
        else:
            with c.mounted(scene, who, "big", wire) as mount:
                seconds, size = work(mount.host, "read", mount.path / "big")
    except LabError as error:
        bench.fail(READ, who, error)
        return
    bench.take(READ, who, size / MIB / seconds, "MiB/s", wire.name)


def cold_files(bench: Bench) -> None:
    """Open, read, close every file of a container's root once, nothing local, the source's page cache warm."""
    scene = bench.scene
    listed, count = scene.files_of("root")
    root = scene.a.path_of(scene.tree("root"))
    others = (c.SSHFS, c.RCLONE) if bench.counts.patient else (c.SSHFS,)
    for who in in_turn((c.WARM, c.VOYFS, *others), bench.counts.runs):
        bench.settle(root)
        try:
            with c.mounted(scene, who, "root") as mount:
                seconds, *_ = work(mount.host, "each", listed, mount.path)
        except LabError as error:
            bench.fail(FILES, who, error)
            continue
        bench.take(f"{count} files", who, seconds, "s")


def latency(bench: Bench) -> None:
    """Reads of absent chunks, and appends to a local file, with pauses: alone, and while all else hydrates."""
    _calls(bench, "demand read", "probe", ("probe", "z/z/z/probe", str(bench.counts.probes), "10000"), keep=True)
    _calls(bench, "append", "root", ("log", "log", str(bench.counts.probes * 10), "1000"), keep=False)


def _calls(bench: Bench, name: str, tree: str, words: tuple[str, str, str, str], *, keep: bool) -> None:
    """KEEP each call's time, too."""
    scene = bench.scene
    source = scene.a.path_of(scene.tree(tree))
    for who in in_turn((c.WARM, c.VOYFS), bench.counts.runs):
        bench.settle(source)
        with c.mounted(scene, who, tree) as mount:
            assert isinstance(mount, c.Voyfs)
            values = _each(mount, *words)
        what = f"{name}, idle" if who == c.WARM else f"{name}, hydrating"
        for value in values if keep else ():
            bench.samples.append(bench.sample(what, c.VOYFS, value * 1000, "ms"))
        bench.take(f"{what}: median", c.VOYFS, percentile(values, 0.5) * 1000, "ms")
        bench.take(f"{what}: p99", c.VOYFS, percentile(values, 0.99) * 1000, "ms")
    scene.drop(tree)


def _each(mount: c.Voyfs, what: str, file: str, count: str, pause: str) -> list[float]:
    """Seconds of each call, as long as the rest is not local yet."""
    words: Words = [TOOLS / "work", what, mount.path / file, count, pause]
    values = []
    with mount.host.popen(words, stdout=-1) as process:
        assert process.stdout is not None
        for number, line in enumerate(process.stdout):
            values.append(float(line))
            if number % 25 == 24 and voyfs_status(mount.host, mount.store)["phase"] == "hydrated":
                values = values[:-25]  # some of these were local already
                process.kill()
                break
    if not values:
        raise LabError("hydration was over before anything could be measured")
    return values
