"""Checks a store while no daemon uses it: what the records say against what is there.

A *problem* is a contradiction: one of the two is wrong. A *note* is what the store cannot vouch for by itself, such as
a chunk that counts as present and is a hole in the backing file: most likely a hole on the source too, possibly lost.
Repairing makes both absent again where the container has not written the file, so that they are fetched anew; what the
container wrote and is lost stays a problem, for nobody else has it.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import trio

from voyfs.core.errors import StoreError
from voyfs.core.extents import Extent, chunk_count, chunks_touched
from voyfs.core.presence import Presence
from voyfs.store.content import CAPABILITY
from voyfs.store.record import WRITTEN, Record
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node

# Named in a report; the rest is counted.
SHOWN = 1000

_BATCH = 1000


@dataclass(slots=True)
class Findings:
    """`problems` and `notes` are [path, what], at most SHOWN of each; counts are of all."""

    entries: int = 0
    problem_count: int = 0
    repaired_count: int = 0
    note_count: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)

    def problem(self, path: bytes, what: str, *, repaired: bool) -> None:
        self.problem_count += 1
        self.repaired_count += repaired
        if len(self.problems) < SHOWN:
            self.problems.append((os.fsdecode(path), what + (" (repaired)" if repaired else "")))

    def note(self, path: bytes, what: str) -> None:
        self.note_count += 1
        if len(self.notes) < SHOWN:
            self.notes.append((os.fsdecode(path), what))


def check(path: Path, boot_id: str, *, repair: bool) -> Findings:
    """Checks the store at `path`; with `repair`, mends what can be. Raises StoreError (StoreBusy, StoreLayout)."""
    if not (path / "state" / "store.db").exists():
        raise StoreError(f"{path} is not a store")
    store = Store(path, boot_id, taking_over=True, checking=True)
    try:
        # what an earlier daemon left in the log would otherwise be taken for true again after a repair
        trio.run(store.checkpoint, _at_once)
        return _Check(store, repair).run()
    finally:
        store.close()


async def _at_once(call: Callable[[], None]) -> None:
    call()


class _Check:
    def __init__(self, store: Store, repair: bool) -> None:
        self._store = store
        self._records = store.records
        self._repair = repair and not store.detached
        self._found = Findings()

    def run(self) -> Findings:
        what = self._records.integrity()
        if what != "ok":
            self._found.problem(b"state/store.db", what, repaired=False)
            return self._found
        seen = self._check_tree()
        for record in self._all():
            self._found.entries += 1
            if record.ino not in seen:
                # Without its entry a record is of no use, but its number may be given to a new file.
                if self._repair:
                    self._records.remove(record.ino)
                self._found.problem(record.source, "has a record and no entry", repaired=self._repair)
        if self._repair:
            self._records.sync()
        return self._found

    def _all(self) -> Iterator[Record]:
        after = -1
        while batch := self._records.after(after, _BATCH):
            for record in batch:
                after = record.ino
                yield record
                self._records.evict(record.ino)

    def _check_tree(self) -> set[int]:
        """Compares every entry of the backing tree with its record; gives all inodes met."""
        tree = self._store.tree
        root = tree.node(ROOT)
        seen = {ROOT}
        waiting = [root]
        while waiting:
            directory = waiting.pop()
            record = directory.record
            if record is not None and not record.populated:
                continue  # whatever is in it was left by an interrupted attempt, and is removed by the next
            for name, _, _ in tree.entries(directory):
                node, status = tree.child(directory, name)
                if node.ino not in seen:
                    seen.add(node.ino)
                    self._check_entry(node, status)
                if node.is_directory:
                    waiting.append(node)
                else:
                    tree.gone(node)
        for orphan in os.listdir(self._store.path / "orphans"):
            parked = tree.parked(int(orphan))
            if parked is not None and parked.ino not in seen:
                seen.add(parked.ino)
                self._check_entry(parked, tree.status(parked))
        return seen

    def _check_entry(self, node: Node, status: os.stat_result) -> None:
        record = node.record
        if record is None:
            return  # the container's own
        path = self._store.tree.path(node)
        if stat.S_IFMT(record.mode) != node.kind:
            # an inode number that was given to another file: the record must not speak for it
            if self._repair:
                self._records.remove(record.ino)
                node.record = None
            self._found.problem(path, "is of another type than its record says", repaired=self._repair)
        elif record.presence is not None:
            self._check_file(node, record, status.st_size, path)

    def _check_file(self, node: Node, record: Record, size: int, path: bytes) -> None:
        presence = record.presence
        assert presence is not None
        written = bool(record.flags & WRITTEN)
        limit = record.version.size if not written else presence.limit
        if size < presence.limit or (not written and size != limit):
            mended = self._repair and not written
            if mended:
                self._forget(node, record, range(chunk_count(limit, presence.chunk)))
                os.truncate(self._store.tree.file(node), limit)
            self._found.problem(path, f"has {size} bytes and its record says {limit}", repaired=mended)
            return
        if written:
            return
        empty = [index for index in self._holes(node, limit) if presence.is_present(index)]
        if empty:
            if self._repair:
                self._forget(node, record, empty)
            what = f"{len(empty)} chunks count as present and are holes"
            self._found.note(path, what + ("; made absent" if self._repair else " (as on the source, or lost)"))

    def _holes(self, node: Node, limit: int) -> Iterator[int]:
        """Chunks below `limit` that the backing file has no data in at all.

        Only ever used to distrust: a file system may show data where there is a hole, never the other way round.
        """
        file, chunk = self._store.tree.file(node), self._store.chunk
        expected, offset = 0, 0
        while offset < limit:
            try:
                start = os.lseek(file, offset, os.SEEK_DATA)
                offset = os.lseek(file, start, os.SEEK_HOLE)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return  # this file system does not tell
                break
            data = chunks_touched(Extent(start, min(offset, limit)), chunk)
            yield from range(expected, data.start)
            expected = max(expected, data.stop)
        yield from range(expected, chunk_count(limit, chunk))

    def _forget(self, node: Node, record: Record, chunks: Iterable[int]) -> None:
        """Makes `chunks` absent: only here, where nobody can have read them meanwhile."""
        assert record.presence is not None
        if record.complete:  # the capability is in the file, and would not outlast the bytes that come
            try:
                record.capability = self._store.content.get_xattr(node, CAPABILITY.encode())
            except OSError:
                pass
        old, gone = record.presence, set(chunks)
        limit = record.version.size
        record.presence = Presence(limit, old.chunk)
        for index in range(chunk_count(limit, old.chunk)):
            if index not in gone and old.is_present(index):
                record.presence.mark(index)
        record.mtime_ns = record.version.mtime_ns
        self._records.rewrite(record)
