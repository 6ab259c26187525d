"""Corrects a warm mount after its source has come to rest.

While the container still runs on the source, what was populated and fetched may grow old. Once it
is frozen, every populated directory is listed again and what differs is made anew. The work is
bounded by what was warmed, not by the tree. Nobody runs on the mount yet, so there are no changes
of a container to lose.
"""

import os
from collections.abc import Awaitable, Callable, Sequence

import trio

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceChanged, SourceMalformed
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource
from voyfs.store.record import ATTRIBUTES, NAMES, WRITTEN
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node

log = get_logger(__name__)

# Directories listed at the same time.
LISTINGS = 16

# Makes the kernel ask again for names, (directory, name), and for what it knows of nodes.
Forget = Callable[[Sequence[tuple[int, bytes]], Sequence[int]], Awaitable[None]]


class _Stale:
    """What changed here behind the kernel's back."""

    def __init__(self) -> None:
        self.names: list[tuple[int, bytes]] = []  # also new ones: it may remember that they were not there
        self.nodes: list[int] = []


async def refresh(store: Store, hydrator: Hydrator, source: BlockSource, forget: Forget) -> int:
    """Makes what the store knows agree with the source; gives the number of changed entries.

    The kernel has been told of each when it returns. Raises SourceError; the mount is as stale as
    before then, and may be refreshed again.
    """
    await hydrator.attach()
    while hydrator.populating:  # with what the source said before it came to rest
        await next(iter(hydrator.populating.values())).wait()
    attachment = await source.attach()
    root = store.tree.node(ROOT)
    assert root.record is not None
    changed = 0
    stale = _Stale()
    if root.record.version != attachment.root.version or root.record.mode != attachment.root.mode:
        store.placeholders.update(root, attachment.root)
        stale.nodes.append(ROOT)
        changed += 1
    hydrator.progress.problems.clear()
    directories = store.records.directories(populated=True)
    listings: dict[int, tuple[Entry, ...] | None] = {}
    limit = trio.CapacityLimiter(LISTINGS)

    async def look(ino: int) -> None:
        record = store.records.get(ino)
        assert record is not None
        async with limit:
            try:
                inode = 0 if ino == ROOT else record.version.inode
                listing = await source.list_directory(record.source, inode)
            except SourceChanged:
                listings[ino] = None  # its parent's listing says what became of it
            else:
                listings[ino] = listing.entries

    async with trio.open_nursery() as nursery:
        for ino in directories:
            nursery.start_soon(look, ino)
    try:
        for ino in directories:  # parents first
            entries = listings[ino]
            record = store.records.get(ino)
            if entries is not None and record is not None and not _parked(store, ino):
                changed += _reconcile(store, hydrator, store.tree.node(ino), entries, stale)
    finally:
        await forget(stale.names, stale.nodes)
    log.info("refreshed", directories=len(directories), changed=changed)
    return changed


def _parked(store: Store, ino: int) -> bool:
    node = store.tree.nodes.get(ino)
    return node is not None and node.parked


def _reconcile(store: Store, hydrator: Hydrator, directory: Node, entries: tuple[Entry, ...], stale: _Stale) -> int:
    """Makes the entries of one populated directory what the source says; all without an await."""
    tree, placeholders = store.tree, store.placeholders
    wanted = {entry.name: entry for entry in entries if store.powers.makes(entry.mode)}
    anew: list[Entry] = []
    changed = 0
    for name, _, _ in tree.entries(directory):
        entry = wanted.pop(name, None)
        node, _ = tree.child(directory, name)
        record = node.record
        if record is None or record.flags & (WRITTEN | ATTRIBUTES):
            raise SourceMalformed(f"{os.fsdecode(name)} was changed here; refresh is for warm mounts")
        if entry is not None and _same(record.mode, record.version, entry):
            continue
        changed += 1
        if entry is not None and entry.is_directory and record.version.inode == entry.version.inode:
            placeholders.update(node, entry)
            stale.nodes.append(node.ino)
            continue
        stale.names.append((directory.ino, name))
        placeholders.discard(directory, name)
        if entry is not None:
            anew.append(entry)
    anew += wanted.values()
    stale.names += [(directory.ino, name) for name in wanted]
    changed += len(wanted)
    if anew or changed:
        placeholders.make(directory, anew)
        own = directory.record
        assert own is not None
        own.mtime_ns, own.ctime_ns = own.version.mtime_ns, own.version.ctime_ns
        own.flags &= ~NAMES
        hydrator.fresh += placeholders.finish(directory) or ()
        store.records.touched(own)
    return changed


def _same(mode: int, version: object, entry: Entry) -> bool:
    """ctime covers owner, mode, xattrs and link count, so the version alone decides."""
    return mode == entry.mode and version == entry.version
