"""Corrects a warm mount after its source has come to rest.

While the container still runs on the source, what was populated and fetched may grow old. Once it is frozen, what
may have changed is looked at again, and what differs is made anew: what the source says that was touched, or, where it
cannot say, every populated directory. So the work is bounded by what changed, or else by what was warmed, never by
the tree. Nobody runs on the mount yet, so there are no changes of a container to lose.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceError, SourceMalformed, SourceUnreachable
from voyfs.differences import Looked, look_at_all, look_at_changed, same, shares_names
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource, Changed
from voyfs.store.record import ATTRIBUTES, NAMES, WRITTEN
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node

log = get_logger(__name__)

# Makes the kernel ask again for names, (directory, name), and for what it knows of nodes.
Forget = Callable[[Sequence[tuple[int, bytes]], Sequence[int]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How many entries differed, how many were looked at; `listed`: why all had to be, empty if only what changed."""

    changed: int
    looked_at: int
    listed: str


class _Stale:
    """What changed here behind the kernel's back."""

    def __init__(self) -> None:
        self.names: list[tuple[int, bytes]] = []  # also new ones: it may remember that they were not there
        self.nodes: list[int] = []


async def refresh(
    store: Store, hydrator: Hydrator, source: BlockSource, forget: Forget, mark: bytes, again: Sequence[bytes]
) -> Refreshed:
    """Makes what the store knows agree with the source.

    `mark`: of `BlockSource.watch`, from before anything was populated; empty if there is none. `again`: paths on the
    source that are looked at whether or not it says that they changed.

    The kernel has been told of each change when it returns. Raises SourceError; the mount is as stale as
    before then, and may be refreshed again, without the mark.
    """
    await hydrator.attach()
    changed, listed = await _changes(source, mark)
    while hydrator.populating:  # with what the source said before it came to rest
        await next(iter(hydrator.populating.values())).wait()
    attachment = await source.attach()
    hydrator.progress.problems.clear()
    looked = Looked()
    if changed is not None:
        looked = await look_at_changed(store, source, changed, again)
        if shares_names(store, looked):
            listed = "a file with several names has changed"
    if listed:
        looked = Looked((await look_at_all(store, source)).entries, looked.doubted)
    count = 0
    stale = _Stale()
    root = store.tree.node(ROOT)
    if root.record is None or not same(root.record, attachment.root):
        store.placeholders.update(root, attachment.root)
        stale.nodes.append(ROOT)
        count += 1
    _disown(store, looked)
    try:
        for ino, entries in looked.entries.items():
            if store.records.get(ino) is not None and not _discarded(store, ino):
                count += _reconcile(store, hydrator, store.tree.node(ino), entries, stale)
    finally:
        await forget(stale.names, stale.nodes)
    done = Refreshed(count, sum(map(len, looked.entries.values())), listed)
    log.info("refreshed", changed=done.changed, looked_at=done.looked_at, listed=listed)
    return done


async def _changes(source: BlockSource, mark: bytes) -> tuple[Changed | None, str]:
    """What the source says has changed since `mark`, or why that is not known. Raises SourceUnreachable."""
    if not mark:
        return None, "the source was not asked to keep what changes"
    try:
        return await source.changes(mark), ""
    except SourceUnreachable:
        raise
    except SourceError as error:
        return None, str(error)


def _disown(store: Store, looked: Looked) -> None:
    """What may be another though it looks the same is not to be taken for it."""
    for ino, name in looked.doubted:
        try:
            node, _ = store.tree.child(store.tree.node(ino), name)
        except FileNotFoundError:
            continue
        if node.record is not None:
            store.placeholders.disown(node)


def _discarded(store: Store, ino: int) -> bool:
    node = store.tree.nodes.get(ino)
    return store.names.doomed(ino) or (node is not None and node.parked)


def _reconcile(
    store: Store, hydrator: Hydrator, directory: Node, entries: Mapping[bytes, Entry | None], stale: _Stale
) -> int:
    """Makes these entries of one populated directory what the source says; all without an await."""
    tree, placeholders = store.tree, store.placeholders
    anew: list[Entry] = []
    changed = 0
    for name, told in entries.items():
        entry = told if told is not None and store.powers.makes(told.mode) else None
        try:
            node, _ = tree.child(directory, name)
        except FileNotFoundError:
            if entry is None:
                continue
        else:
            record = node.record
            if record is None or record.flags & (WRITTEN | ATTRIBUTES):
                raise SourceMalformed(f"{os.fsdecode(name)} was changed here; refresh is for warm mounts")
            if entry is not None and same(record, entry):
                continue
            if entry is not None and entry.is_directory and record.version.inode == entry.version.inode:
                placeholders.update(node, entry)
                stale.nodes.append(node.ino)
                changed += 1
                continue
            placeholders.discard(directory, name)
        changed += 1
        stale.names.append((directory.ino, name))
        if entry is not None:
            anew.append(entry)
    if changed:
        placeholders.make(directory, anew)
        own = directory.record
        assert own is not None
        own.mtime_ns, own.ctime_ns = own.version.mtime_ns, own.version.ctime_ns
        own.flags &= ~NAMES
        hydrator.fresh += placeholders.finish(directory) or ()
        store.records.touched(own)
    return changed
