"""What of a source is looked at again when a warm mount is refreshed: all that is known here, or only what has changed.

Knows nothing of how the store is corrected.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import trio

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceChanged
from voyfs.core.limits import STAT_PATHS
from voyfs.ports import BlockSource, Changed
from voyfs.store.record import Record
from voyfs.store.store import Store
from voyfs.store.tree import ROOT

# Calls to the source at the same time.
LOOKS = 16


@dataclass(slots=True)
class Looked:
    """Entries as the source has them now, by directory and name, None for what is not there; parents before children.

    `doubted` are those that may be others even where they look the same.
    """

    entries: dict[int, dict[bytes, Entry | None]] = field(default_factory=dict)
    doubted: set[tuple[int, bytes]] = field(default_factory=set)


async def look_at_all(store: Store, source: BlockSource) -> Looked:
    """Every directory that is populated here, listed. Raises SourceError."""
    directories = store.records.directories(populated=True)
    listings: dict[int, tuple[Entry, ...]] = {}
    limit = trio.CapacityLimiter(LOOKS)

    async def look(ino: int) -> None:
        record = store.records.get(ino)
        assert record is not None
        async with limit:
            try:
                inode = 0 if ino == ROOT else record.version.inode
                listing = await source.list_directory(record.source, inode)
            except SourceChanged:
                return  # its parent's listing says what became of it
            listings[ino] = listing.entries

    async with trio.open_nursery() as nursery:
        for ino in directories:
            nursery.start_soon(look, ino)
    looked = Looked()
    for ino in directories:
        if ino in listings and store.records.get(ino) is not None:
            known = store.tree.entries(store.tree.node(ino))
            gone: dict[bytes, Entry | None] = dict.fromkeys(name for name, _, _ in known)
            looked.entries[ino] = gone | {entry.name: entry for entry in listings[ino]}
    return looked


async def look_at_changed(store: Store, source: BlockSource, changed: Changed, again: Iterable[bytes]) -> Looked:
    """What `changed` names, as far as it is known here, and the paths `again`. Raises SourceError."""
    records = store.records
    paths = dict.fromkeys(again, False)  # whether what is there is doubted
    for touched in changed.touched:
        directory = records.of_directory(touched.path)
        if directory is not None:
            paths.setdefault(touched.path, False)
            if directory.populated:
                paths |= dict.fromkeys((_join(touched.path, name) for name in touched.names), True)
    root = records.get(ROOT)
    assert root is not None
    for inode in changed.inodes:
        paths |= dict.fromkeys((record.source for record in records.of_file(root.device, inode)), True)
    paths.pop(b"", None)
    looked = Looked()
    found = await _stat(source, list(paths))
    directories = {above: records.of_directory(above) for above in {path.rpartition(b"/")[0] for path in paths}}
    for path, entry in sorted(found.items()):
        above, _, name = path.rpartition(b"/")
        directory = directories[above]
        if directory is not None and directory.populated:
            looked.entries.setdefault(directory.ino, {})[name] = entry and replace(entry, name=name)
            if paths[path]:
                looked.doubted.add((directory.ino, name))
    return looked


async def _stat(source: BlockSource, paths: Sequence[bytes]) -> Mapping[bytes, Entry | None]:
    found: dict[bytes, Entry | None] = {}
    limit = trio.CapacityLimiter(LOOKS)

    async def look(part: Sequence[bytes]) -> None:
        async with limit:
            found.update(zip(part, await source.stat(part), strict=True))

    async with trio.open_nursery() as nursery:
        for start in range(0, len(paths), STAT_PATHS):
            nursery.start_soon(look, paths[start : start + STAT_PATHS])
    return found


def shares_names(store: Store, looked: Looked) -> bool:
    """Whether a file of these that may be another has, or had, further names: which these are is not known."""
    for ino, entries in looked.entries.items():
        for name, entry in entries.items():
            record, names = _here(store, ino, name)
            doubted = (ino, name) in looked.doubted
            if not doubted and record is not None and entry is not None and same(record, entry):
                continue
            if record is not None and record.presence is not None and names > 1:
                return True
            if entry is None or not entry.is_file or entry.nlink == 1:
                continue
            if store.records.of_file(entry.device, entry.version.inode):
                return True
    return False


def _here(store: Store, directory: int, name: bytes) -> tuple[Record | None, int]:
    """The record of the entry `name`, if it is here, and how many names it has here."""
    try:
        node, status = store.tree.child(store.tree.node(directory), name)
    except FileNotFoundError:
        return None, 0
    return node.record, status.st_nlink


def same(record: Record, entry: Entry) -> bool:
    """ctime covers owner, mode, xattrs and link count, so the version alone decides."""
    return record.mode == entry.mode and record.version == entry.version


def _join(directory: bytes, name: bytes) -> bytes:
    return directory + b"/" + name if directory else name
