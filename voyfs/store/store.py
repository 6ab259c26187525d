"""A store: the backing tree of one mount and what is still missing in it.

    STORE/lock           held by the one daemon that uses the store
    STORE/data/          the container's files, as far as they are materialised
    STORE/orphans/       entries without a name that somebody still refers to, by inode number
    STORE/state/         records (see `records`)
    STORE/control.sock   the daemon's control socket
    STORE/log            the daemon's log when it runs in the background

This module opens it, refuses what must not be opened, and makes it durable. The parts do the
work: `tree` (where things are), `names`, `content`, `placeholders`, `records`.
"""

import fcntl
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from voyfs.core.entry import Entry
from voyfs.core.errors import StoreBusy, StoreError, StoreForeign
from voyfs.core.limits import CHUNK
from voyfs.store.content import Content
from voyfs.store.names import Names
from voyfs.store.placeholders import Placeholders
from voyfs.store.powers import Powers
from voyfs.store.records import Records
from voyfs.store.tree import ORPHANS, ROOT, Node, Tree
from voyfs.syscalls import syncfs

# Runs a slow call that needs no interpreter in a worker thread.
InThread = Callable[[Callable[[], None]], Awaitable[None]]


class Store:
    """Opened by the constructor, closed by `close`; never two at once on the same directory."""

    def __init__(
        self,
        path: Path,
        boot_id: str,
        *,
        chunk: int = CHUNK,
        taking_over: bool,
        checking: bool = False,
        powers: Powers | None = None,
    ) -> None:
        """Opens the store at `path`, making it if the directory is missing or empty.

        `taking_over`: the kernel still knows nodes of an earlier daemon. `checking`: only to see what is wrong.
        `powers` are by default those of this process.
        Raises StoreBusy, StoreLayout, StoreError.
        """
        self.path = path
        try:
            path.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the store {path}: {error.strerror}") from error
        strangers = {entry.name for entry in path.iterdir()} - {
            *("lock", "data", "orphans", "state", "control.sock", "log")
        }
        if strangers and not (path / "state").exists():
            raise StoreError(f"{path} is not a store and not empty; give an empty or new directory to --store")
        # held by the daemon, and by what works for it, as long as any of them lives
        self.lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self.lock)
            raise StoreBusy(f"the store {path} is in use by another daemon; unmount that mount first") from None
        try:
            for part in ("data", "orphans", "state"):
                (path / part).mkdir(mode=0o700, exist_ok=True)
            self.records = Records(path / "state", chunk, boot_id)
            self._require_original()
        except sqlite3.DatabaseError as error:
            os.close(self.lock)
            raise StoreError(f"the records of {path} cannot be read ({error}); mount with a new store") from error
        except BaseException:
            os.close(self.lock)
            raise
        self._lasting = trio.Lock()  # held by what makes records durable, one at a time
        self._data = os.open(path / "data", os.O_RDONLY | os.O_DIRECTORY)
        self._orphans = os.open(path / "orphans", os.O_RDONLY | os.O_DIRECTORY)
        self.tree = Tree(self._data, self._orphans, self.records, heed_cuts=not checking)
        self.powers = powers or Powers.own()
        self.names = Names(self.tree, self._orphans, self.records, self.powers)
        self.content = Content(self.tree, self.records, self.powers)
        self.placeholders = Placeholders(self.tree, self.names, self.records, self.powers)
        for record in self.records.dirty:  # replayed: the last daemon may have died in between
            try:
                node = self.tree.node(record.ino)
            except OSError:
                continue  # somebody removed its entry; `fsck` says so, and the rest is good
            try:
                self.content.settle(node)
            except OSError:
                pass  # on a full disk; what is shown is right, and the next daemon does it
            self.names.release(node)
        if not taking_over:
            self.names.adopt_orphans()

    def _require_original(self) -> None:
        """Raises StoreError for a copy: the records speak of inodes, and a copy's files have others, about which
        they are silent, as they are about files that need nothing of the source.
        """
        parts = ("data", "orphans", "state", "state/store.db")
        inodes = " ".join(str((self.path / part).stat().st_ino) for part in parts)
        known = self.records.meta("inodes")
        if known is None:
            self.records.set_meta(inodes=inodes)
        elif known != inodes:
            raise StoreError(
                f"the store {self.path} is a copy, and only the original knows what is missing in it; a store may be"
                " moved within its file system; mount with a new store"
            )

    @property
    def chunk(self) -> int:
        return self.records.chunk

    @property
    def export_id(self) -> bytes | None:
        """The export that the store belongs to; None while it is new."""
        return self.records.meta("export_id")  # type: ignore[no-any-return]

    @property
    def detached(self) -> bool:
        """Whether the source is needed no more."""
        return bool(self.records.meta("detached"))

    def bind(self, export_id: bytes, root: Entry) -> None:
        """The store belongs to this export from now on. Raises StoreForeign."""
        if self.export_id is None:
            self.placeholders.adopt_root(root)
            self.records.set_meta(export_id=export_id)
        elif self.export_id != export_id:
            raise StoreForeign(
                f"the store {self.path} belongs to another export; mount with another --store,"
                " or the export that it was made for"
            )

    @property
    def hydrating(self) -> bool:
        """Whether hydration was ever begun: the source is at rest from then on, and what is here may be changed."""
        return bool(self.records.meta("hydrating"))

    def begin_hydration(self) -> None:
        if not self.hydrating:
            self.records.set_meta(hydrating=1)

    @property
    def bandwidth(self) -> int | None:
        """The background's limit in bytes a second, as last set; None if it never was."""
        return self.records.meta("bandwidth")  # type: ignore[no-any-return]

    @bandwidth.setter
    def bandwidth(self, rate: int) -> None:
        if rate != self.bandwidth:
            self.records.set_meta(bandwidth=rate)

    def detach(self) -> None:
        """From now on the store is whole: no record waits for anything of the source."""
        self.records.forget_unseen()
        self.records.set_meta(detached=1)

    def statvfs(self) -> os.statvfs_result:
        return os.statvfs(self._data)

    def usable(self, node: Node) -> bool:
        """Whether the names in directory `node` are all local."""
        record = node.record
        return record is None or record.populated

    # -- durability -------------------------------------------------------------------------

    async def checkpoint(self, in_thread: InThread) -> None:
        """Makes all that happened until now survive a loss of power.

        The order is the guarantee: data first, then the records that vouch for it, then the
        removal of what only older records spoke of. `in_thread` runs the slow calls. If the disk
        fails (OSError), or when cancelled, nothing is lost: the next one makes up for it.
        """
        async with self._lasting:
            gone = self.names.reapable()
            records = self.records
            if not (records.dirty or gone or records.recent or records.unsynced or records.log_is_long):
                return
            pending = self.records.rotate()
            try:
                await in_thread(lambda: syncfs(self._data))
                still = set(self.names.reapable())
                gone = [ino for ino in gone if ino in still]
                self.records.commit(pending, gone)
            except BaseException:
                self.records.give_up()
                raise
            await self._sync_records(in_thread)
            self.records.drop_logs_before(pending.generation)
            self.names.reap([ino for ino in gone if self.records.get(ino) is None])
            records.put_by()
            for ino in [ino for ino in self.records.loaded if ino not in self.tree.nodes]:
                self.records.evict(ino)

    def anchored(self, node: Node) -> bool:
        """Whether no loss of power can undo the populating that brought `node`, or what is above it.

        What it undoes is made anew from the source, so nothing that must last may be in it, nor leave
        it: it would be taken for the rest of an interrupted attempt, or have lost its record.
        """
        recent = self.records.recent
        if not recent:
            return True
        waiting = [node]
        while waiting:
            at = waiting.pop()
            if at.ino in recent:
                return False
            if at.ino == ROOT:
                continue
            for parent in {at.parent, *(parent for parent, _ in at.others or ())} - {ORPHANS}:
                waiting.append(self.tree.node(parent))
        return True

    async def sync_file(self, node: Node, in_thread: InThread) -> None:
        """fsync of one file: its data, then what the records say of it. The caller holds `node`."""
        if not self.anchored(node):
            await self.checkpoint(in_thread)
        file = os.dup(self.tree.file(node))
        # taken before the data is synced: a chunk that arrives meanwhile is not vouched for
        snapshot = None if node.record is None else self.records.snapshot(node.record)
        try:
            await in_thread(lambda: os.fsync(file))
        finally:
            os.close(file)
        if snapshot is None and not self.records.unsynced and not self._lasting.locked():
            return
        async with self._lasting:  # a checkpoint that is under way may hold what we wait for
            if snapshot is not None:
                self.records.vouch(*snapshot)
            await self._sync_records(in_thread)

    async def sync_records(self, in_thread: InThread) -> None:
        """Makes durable what the database holds already."""
        async with self._lasting:
            await self._sync_records(in_thread)

    async def _sync_records(self, in_thread: InThread) -> None:
        if self.records.unsynced:
            self.records.unsynced = False
            try:
                await in_thread(self.records.sync)
            except BaseException:
                self.records.unsynced = True
                raise

    def close(self) -> None:
        """Closes everything; the caller has made a last checkpoint."""
        self.tree.close()
        self.records.close()
        os.close(self._data)
        os.close(self._orphans)
        os.close(self.lock)
