"""Rows about what is local: what FUSE and our handlers cost, against C and against the plain directory."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from benchmarks.fs import contenders as c
from benchmarks.fs.bench import MIB, Bench
from benchmarks.fs.contenders import Mounted
from benchmarks.fs.sampling import in_turn
from benchmarks.fs.scene import LOOPBACK, TREES, Words, work

ALL: Final = (c.VOYFS, c.C, c.C_BARE, c.NATIVE)
APPENDS: Final = 16_384  # writes of 4 KiB
CREATED: Final = 5000


@contextmanager
def _side_by_side(bench: Bench, tree: str) -> Iterator[dict[str, tuple[Mounted, Path]]]:
    """Contenders over the same TREE, all of it local, and where each one's files really are."""
    scene = bench.scene
    plain = scene.a.path_of(scene.tree(tree))
    with ExitStack() as stack:
        voyfs = stack.enter_context(c.voyfs(scene, tree, LOOPBACK))
        voyfs.hydrate()
        yield {
            c.VOYFS: (voyfs, scene.a.path_of(voyfs.store / "data")),
            c.C: (stack.enter_context(c.passthrough(scene, scene.tree(tree))), plain),
            c.C_BARE: (stack.enter_context(c.passthrough(scene, scene.tree(tree), xattr=False)), plain),
            c.NATIVE: (Mounted(scene.a, scene.tree(tree)), plain),
        }


def local_read(bench: Bench) -> None:
    """A big local file from its start to its end; caches dropped, then with the backing file back in the page cache."""
    with _side_by_side(bench, "big") as mounts:
        for warm in (False, True):
            what = "sequential read, backing file in the page cache" if warm else "sequential read, nothing in a cache"
            for who in in_turn((c.VOYFS, c.C, c.NATIVE), bench.counts.many if warm else bench.counts.runs):
                mount, backing = mounts[who]
                bench.settle(*([backing] if warm and who != c.NATIVE else []))
                seconds, size = work(mount.host, "read", mount.path / "big")
                bench.take(what, who, size / MIB / seconds, "MiB/s")
    bench.scene.drop("big")


def local_files(bench: Bench) -> None:
    """Every entry of a container's root: first pass with the backing tree's caches warm, then a second pass."""
    scene = bench.scene
    listed, count = scene.files_of("root")
    with _side_by_side(bench, "root") as mounts:
        for who in in_turn(ALL, bench.counts.many):
            mount, backing = mounts[who]
            passes: list[tuple[str, Words]] = [
                ("find", ["time", "find", mount.path, "-type", "f"]),
                ("ls -lR", ["time", "ls", "-lR", mount.path]),
                (f"open+read+close of {count} files", ["each", listed, mount.path]),
            ]
            for name, words in passes:
                bench.settle(backing)
                subprocess.run(["ls", "-lR", backing], stdout=subprocess.DEVNULL, check=True)
                for number in ("first", "second"):
                    seconds, *_ = work(mount.host, *words)
                    bench.take(f"{name}, {number} pass", who, seconds * 1000, "ms")


def writes(bench: Bench) -> None:
    """New files in a mount whose source is an empty directory: what programs do that build or unpack."""
    scene = bench.scene
    scene.tree("repository")
    archive = TREES / "root.tar"
    subprocess.run(
        ["tar", "-C", scene.a.path_of(scene.tree("root")), "-cf", scene.a.path_of(archive), "usr"], check=True
    )
    with _side_by_side(bench, "empty") as mounts:
        for what, act in _writers(archive):
            for who in in_turn(ALL, bench.counts.many):
                mount = mounts[who][0]
                place = mount.path / "here"
                mount.host.run(["mkdir", place])
                bench.settle(scene.a.path_of(TREES / "repository"), scene.a.path_of(archive))
                bench.take(what, who, act(mount, place) * 1000, "ms")
                mount.host.run(["rm", "-rf", place])


Act = Callable[[Mounted, PurePosixPath], float]


def _writers(archive: PurePosixPath) -> Iterator[tuple[str, Act]]:
    yield f"{APPENDS} writes of 4 KiB", lambda mount, place: work(mount.host, "append", place / "f", str(APPENDS))[0]
    yield f"creation of {CREATED} files", lambda mount, place: work(mount.host, "create", place, str(CREATED))[0]
    yield "tar extract", lambda mount, place: work(mount.host, "time", "tar", "-C", place, "-xf", archive)[0]
    yield "git checkout", _checkout


def _checkout(mount: Mounted, place: PurePosixPath) -> float:
    git = ["git", "-c", "safe.directory=*", "-c", "gc.auto=0"]
    clone = place / "clone"
    mount.host.run([*git, "clone", "-q", "--no-checkout", "--shared", TREES / "repository", clone])
    return work(mount.host, "time", *git, "-C", clone, "checkout", "-qf", "main")[0]
