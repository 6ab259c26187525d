"""A store on a temporary directory, without a source, a kernel or a clock."""

import functools
import os
import stat
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import trio

from voyfs.core.entry import Entry, Version
from voyfs.core.extents import Extent, chunks_touched
from voyfs.core.limits import CHUNK
from voyfs.ports import Piece
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

EXPORT = b"e" * 16
T0 = 1_000_000_000_123_456_789
_SECONDS = 30  # the bound of a test that hangs


def in_trio(test: Callable[Parameters, Awaitable[None]]) -> Callable[Parameters, None]:
    """Makes an ordinary test of an async one."""

    @functools.wraps(test)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        async def bounded() -> None:
            with trio.fail_after(_SECONDS):
                await test(*args, **kwargs)

        trio.run(bounded)

    return run


async def in_thread(call: Callable[[], Result]) -> Result:
    return await trio.to_thread.run_sync(call)


def entry(name: str, inode: int, kind: int = stat.S_IFREG, **changes: object) -> Entry:
    """An entry of a source, with times of long ago."""
    size = int(changes.pop("size", 0))  # type: ignore[call-overload]
    values: dict[str, object] = {
        "mode": kind | (0o755 if kind == stat.S_IFDIR else 0o644),
        "uid": 0,
        "gid": 0,
        "rdev": 0,
        "nlink": 2 if kind == stat.S_IFDIR else 1,
        "blocks": -(-size // 512),
        "atime_ns": T0,
        "device": 1,
        "version": Version(inode, size, T0 + inode, T0 + 2 * inode),
    }
    return Entry(name=name.encode(), **(values | changes))  # type: ignore[arg-type]


def directory(name: str, inode: int, **changes: object) -> Entry:
    return entry(name, inode, stat.S_IFDIR, **changes)


@contextmanager
def opened(path: Path, boot_id: str = "this boot", *, taking_over: bool = False) -> Iterator[Store]:
    """The store at `path`, bound to EXPORT; closed without a checkpoint, as by SIGKILL."""
    store = Store(path, boot_id, taking_over=taking_over)
    try:
        store.bind(EXPORT, directory("", 1))
        yield store
    finally:
        store.close()


def populate(store: Store, node: Node, *entries: Entry) -> None:
    store.placeholders.clear(node)
    store.placeholders.make(node, entries)
    assert store.placeholders.finish(node) is not None


def at(store: Store, path: str) -> Node:
    """The node at `path`, which is known."""
    node = store.tree.node(ROOT)
    for part in path.split("/"):
        node, _ = store.tree.child(node, part.encode())
    return node


def fetched(store: Store, node: Node, *chunks: int, fill: bytes = b"s") -> None:
    """Chunks arrive from the source, full of `fill`."""
    assert node.record is not None
    assert node.record.presence is not None
    for index in chunks:
        extent = node.record.presence.extent(index)
        store.content.fill(node, Piece(extent.start, extent.length, fill * extent.length), extent)
    store.content.filled((node, list(chunks)))


def missing(node: Node) -> list[int]:
    """The absent chunks of a file."""
    if node.record is None or node.record.presence is None:
        return []
    return list(node.record.presence.absent())


def content(store: Store, node: Node) -> bytes:
    """All of a file; every byte of it must be present."""
    if node.record is not None and node.record.presence is not None:
        size = os.fstat(store.tree.file(node)).st_size
        assert not node.record.presence.missing(chunks_touched(Extent(0, size), CHUNK))
    file = store.tree.file(node)
    return os.pread(file, os.fstat(file).st_size + 1, 0)


def names(store: Store, path: str = "") -> set[bytes]:
    node = at(store, path) if path else store.tree.node(ROOT)
    return {name for name, _, _ in store.tree.entries(node)}
