"""Rows about single costs: the first write into an absent file, and the daemon's memory."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Final

from benchmarks.fs import contenders as c
from benchmarks.fs.bench import MIB, Bench
from benchmarks.fs.scene import LOOPBACK, TOOLS, Words, work

KIB: Final = 1024


def first_write(bench: Bench) -> None:
    """4 KiB into the middle of a file of which nothing is local: a big one, and one of a single chunk."""
    scene = bench.scene
    source = scene.a.path_of(scene.tree("patch"))
    for _ in range(bench.counts.many):
        for name in ("big", "small"):
            bench.settle(source)
            with c.voyfs(scene, "patch", LOOPBACK, "--warm") as mount:
                mount.host.run(["ls", "-l", mount.path])
                before = mount.status()["fetched_bytes"]
                middle = (source / name).stat().st_size // 2 + 512
                seconds, *_ = work(mount.host, "patch", mount.path / name, str(middle))
                fetched = mount.status()["fetched_bytes"] - before
            file = "file of one chunk" if name == "small" else "big file"
            bench.take(f"first write into an absent {file}", c.VOYFS, seconds * 1000, "ms")
            bench.take(f"first write into an absent {file}: fetched", c.VOYFS, fetched / KIB, "KiB")
    scene.drop("patch")


def memory(bench: Bench) -> None:
    """Of the daemon, resident: every name looked up by `ls -lR`, so the kernel holds them all; then one sparse file."""
    scene = bench.scene
    for _ in range(bench.counts.runs):
        bench.settle()
        with c.voyfs(scene, "small", LOOPBACK, "--warm") as mount:
            bench.take("memory, just mounted", c.VOYFS, _resident(mount.daemon), "MiB")
            work(mount.host, "time", "ls", "-lR", mount.path)
            bench.take(f"memory, {scene.sizes.small_files} files populated", c.VOYFS, _resident(mount.daemon), "MiB")
        with c.voyfs(scene, "small", LOOPBACK) as mount:
            mount.hydrate()
            bench.take(f"memory, {scene.sizes.small_files} files hydrated", c.VOYFS, _resident(mount.daemon), "MiB")
            total = sum(_resident(pid) for pid in mount.pids)
            bench.take(
                f"memory of all three processes, {scene.sizes.small_files} files hydrated", c.VOYFS, total, "MiB"
            )
        with c.voyfs(scene, "sparse", LOOPBACK, "--warm") as mount:
            work(mount.host, "time", "ls", "-lR", mount.path)
            before = _resident(mount.daemon)
            words: Words = [TOOLS / "work", "hold", mount.path / "sparse"]
            with mount.host.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdout.readline()
                more = _resident(mount.daemon) - before
                process.stdin.close()
            bench.take("memory for an open sparse file of 100 GiB", c.VOYFS, more, "MiB")
    scene.drop("sparse")


def _resident(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KIB / MIB
    return 0.0
