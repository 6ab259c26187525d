"""File semantics over the store and the hydrator; knows nothing of FUSE.

Every method takes node numbers and gives plain values. Errors are OSError for what the local
file system says, and VoyfsError for what the source or the store says. The kernel checks
permissions (default_permissions), holds locks, and calls one method per operation.

The rule that keeps bytes right: what an operation needs is made present first, with awaits, then
checked again, and the operation itself runs without any await.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import trio
import xxhash

from voyfs.callers import while_wanted
from voyfs.core.changes import Change
from voyfs.core.extents import Extent, chunks_touched
from voyfs.hydrator import Hydrator
from voyfs.store.content import Attributes
from voyfs.store.store import Store
from voyfs.store.tree import Node

Result = TypeVar("Result")

# Cookies of "." and ".."; those of names come from a hash and are larger.
DOT, DOTDOT, FIRST_NAME = 1, 2, 3
COOKIE_BITS = 62


@dataclass(frozen=True, slots=True)
class Owner:
    """Who makes an entry, and the umask to apply."""

    uid: int
    gid: int
    umask: int


def cookie(name: bytes) -> int:
    """Where `name` stands in its directory's order; the same for every daemon, at any time.

    Listing in the order of a hash of the names means that a position needs no state: names come
    and go, and an entry that stays is listed once. (ext4 does the same.) Two names of one
    directory with the same 62 bits would hide one of them from listings.
    """
    return FIRST_NAME + (xxhash.xxh3_64_intdigest(name) >> (64 - COOKIE_BITS))


async def in_thread(call: Callable[[], Result]) -> Result:
    return await trio.to_thread.run_sync(call)


class Vfs:
    def __init__(self, store: Store, hydrator: Hydrator) -> None:
        self._store = store
        self._hydrator = hydrator
        self._listings: dict[int, list[tuple[int, bytes]]] = {}  # of directories being read

    def called(self) -> None:
        """A program uses the mount: for a while it goes before the background."""
        self._hydrator.turns.called()

    def node(self, ino: int) -> Node:
        return self._store.tree.node(ino)

    async def _directory(self, ino: int) -> Node:
        node = self._store.tree.node(ino)
        if not self._store.usable(node):
            await while_wanted(partial(self._hydrator.populate, node))
        return node

    @contextmanager
    def _using(self, ino: int) -> Iterator[Node]:
        """The node, kept in memory for a call that waits in between.

        The kernel names it by number, so it refers to it, though it may have told only an earlier daemon so: to find
        such a node again can take a walk through the whole tree.
        """
        node = self._store.tree.node(ino)
        node.lookups = max(node.lookups, 1)
        node.held += 1
        try:
            yield node
        finally:
            node.held -= 1
            self._store.names.release(node)

    def _shown(self, node: Node) -> Attributes:
        return self._store.content.attributes(node)

    # -- names ------------------------------------------------------------------------------

    async def lookup(self, parent: int, name: bytes) -> Attributes:
        """What `name` is; counts one reference of the kernel to it."""
        directory = await self._directory(parent)
        if name == b".":
            node, status = directory, None
        elif name == b"..":
            node, status = self._store.tree.node(directory.parent), None
        else:
            node, status = self._store.tree.child(directory, name)
        shown = self._store.content.attributes(node, status)
        node.lookups += 1
        return shown

    def sent_again(self, change: Change, ino: int, name: bytes) -> None:
        """The kernel sends this call again, which an earlier daemon did not answer."""
        self._store.names.intents.sent_again(change, ino, name)

    def forget(self, ino: int, count: int) -> None:
        """The kernel drops `count` references."""
        tree = self._store.tree
        node = tree.nodes.get(ino) or tree.parked(ino)  # parked by an earlier daemon, which counted
        if node is not None:
            node.lookups = max(0, node.lookups - count)
            self._store.names.release(node)

    async def create(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attributes:
        directory = await self._directory(parent)
        node = self._store.names.create(directory, name, mode, owner.uid, owner.gid, owner.umask)
        return self._made(node)

    async def mkdir(self, parent: int, name: bytes, mode: int, owner: Owner) -> Attributes:
        directory = await self._directory(parent)
        return self._made(self._store.names.mkdir(directory, name, mode, owner.uid, owner.gid, owner.umask))

    async def mknod(self, parent: int, name: bytes, mode: int, device: int, owner: Owner) -> Attributes:
        directory = await self._directory(parent)
        return self._made(self._store.names.mknod(directory, name, mode, device, owner.uid, owner.gid, owner.umask))

    async def symlink(self, parent: int, name: bytes, target: bytes, owner: Owner) -> Attributes:
        directory = await self._directory(parent)
        return self._made(self._store.names.symlink(directory, name, target, owner.uid, owner.gid))

    async def link(self, ino: int, parent: int, name: bytes) -> Attributes:
        while True:
            directory = await self._directory(parent)
            node = self._store.tree.node(ino)
            if await self._anchored(directory, node):
                break
        self._store.names.link(node, directory, name)
        return self._made(node)

    def _made(self, node: Node) -> Attributes:
        shown = self._shown(node)
        node.lookups += 1
        return shown

    async def unlink(self, parent: int, name: bytes) -> None:
        directory = await self._directory(parent)
        self._store.names.unlink(directory, name)

    async def rmdir(self, parent: int, name: bytes) -> None:
        directory = await self._directory(parent)
        await self._populate_victim(directory, name)
        self._store.names.rmdir(directory, name)

    async def _populate_victim(self, directory: Node, name: bytes) -> None:
        """A directory that is about to go must be known to be empty."""
        while True:
            try:
                node, _ = self._store.tree.child(directory, name)
            except FileNotFoundError:
                return
            if not node.is_directory or self._store.usable(node):
                return
            await while_wanted(partial(self._hydrator.populate, node))

    async def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, flags: int) -> None:
        while True:
            directory = await self._directory(parent)
            target = await self._directory(new_parent)
            if not flags:
                await self._populate_victim(target, new_name)
            if directory is target or await self._anchored(directory, target):
                break
        self._store.names.rename(directory, name, target, new_name, flags)

    async def _anchored(self, *nodes: Node) -> bool:
        """Whether things may move between these; if not, makes it so, and the caller looks again."""
        if all(self._store.anchored(node) for node in nodes):
            return True
        await self._store.checkpoint(in_thread)
        return False

    def readlink(self, ino: int) -> bytes:
        return self._store.content.target(self._store.tree.node(ino))

    # -- listing ----------------------------------------------------------------------------

    async def opendir(self, ino: int) -> None:
        await self._directory(ino)

    async def readdir(self, ino: int, after: int) -> Iterator[tuple[int, bytes, Attributes]]:
        """Entries with a cookie above `after`, in order: (cookie, name, attributes).

        The snapshot is taken anew at the beginning of a listing. Of each entry the caller says
        whether the kernel took it: `listed` or `passed`.
        """
        directory = await self._directory(ino)
        listing = self._listings.get(ino)
        if after == 0 or listing is None:
            entries = self._store.tree.entries(directory, read=True)
            self._store.records.get_many([inode for _, inode, _ in entries])
            listing = sorted((cookie(name), name) for name, _, _ in entries)
            self._listings[ino] = listing
        return self._entries(directory, listing, after)

    def _entries(
        self, directory: Node, listing: list[tuple[int, bytes]], after: int
    ) -> Iterator[tuple[int, bytes, Attributes]]:
        tree, content = self._store.tree, self._store.content
        if after < DOT:
            yield DOT, b".", content.attributes(directory)
        if after < DOTDOT:
            yield DOTDOT, b"..", content.attributes(tree.node(directory.parent or directory.ino))
        low, high = 0, len(listing)
        while low < high:
            middle = (low + high) // 2
            if listing[middle][0] > after:
                high = middle
            else:
                low = middle + 1
        for position in range(low, len(listing)):
            at, name = listing[position]
            try:
                node, status = tree.child(directory, name)
            except FileNotFoundError:
                continue  # removed since the snapshot
            yield at, name, content.attributes(node, status)

    def listed(self, ino: int) -> None:
        """The kernel took an entry of a listing: it holds a reference to it now."""
        self._store.tree.nodes[ino].lookups += 1

    def passed(self, ino: int) -> None:
        """The kernel had no room for an entry of a listing; nothing refers to it."""
        node = self._store.tree.nodes.get(ino)
        if node is not None:
            self._store.names.release(node)

    def releasedir(self, ino: int) -> None:
        self._listings.pop(ino, None)

    # -- bytes ------------------------------------------------------------------------------

    async def open(self, ino: int, *, truncate: bool) -> None:
        node = self._store.tree.node(ino)
        self._store.tree.file(node)
        if truncate:
            await self.truncate(ino, 0)

    async def read(self, ino: int, offset: int, size: int) -> memoryview | bytes:
        """To be taken before the next await: the memory is that of the next read."""
        with self._using(ino) as node:
            await self._hydrator.ensure(node, Extent(offset, offset + size), ahead=True)
            cached = self._store.content.read_nowait(node, offset, size)
            if cached is not None:
                return cached
            file = os.dup(self._store.tree.file(node))
            try:
                return await in_thread(lambda: os.pread(file, size, offset))
            finally:
                os.close(file)

    async def write(self, ino: int, offset: int, data: bytes) -> int:
        extent = Extent(offset, offset + len(data))
        with self._using(ino) as node:
            record = node.record
            if record is not None and record.presence is not None:
                presence = record.presence
                while not presence.complete:
                    uncovered = self._store.content.needed_before_write(record, extent)
                    if uncovered:
                        await self._hydrator.ensure(node, presence.extent(uncovered[0]))
                    elif self._hydrator.flying(node, chunks_touched(extent, presence.chunk)):
                        await self._hydrator.clear(node, extent)
                    else:
                        break
            count = self._store.content.write(node, offset, data)
            self._hydrator.progress.written_bytes += count
            return count

    async def truncate(self, ino: int, size: int) -> None:
        with self._using(ino) as node:
            record = node.record
            if record is not None and record.presence is not None:
                await self._hydrator.clear(node, Extent(size, record.presence.limit))
            self._store.content.truncate(node, size)

    async def fsync(self, ino: int) -> None:
        with self._using(ino) as node:
            await self._store.sync_file(node, in_thread)

    async def fsyncdir(self, ino: int) -> None:
        node = self._store.tree.node(ino)
        if not self._store.anchored(node):
            await self._store.checkpoint(in_thread)
        descriptor = os.open(b".", os.O_RDONLY, dir_fd=self._store.tree.directory(node))
        try:
            await in_thread(lambda: os.fsync(descriptor))
        finally:
            os.close(descriptor)
        await self._store.sync_records(in_thread)

    # -- attributes -------------------------------------------------------------------------

    def getattr(self, ino: int) -> Attributes:
        return self._shown(self._store.tree.node(ino))

    async def setattr(
        self,
        ino: int,
        *,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        size: int | None = None,
        atime_ns: int | None = None,
        mtime_ns: int | None = None,
    ) -> Attributes:
        """Sets what is not None: the owner before the mode, for chown drops special bits."""
        content = self._store.content
        if size is not None:
            await self.truncate(ino, size)
        node = self._store.tree.node(ino)
        if (mode, uid, gid, size, atime_ns, mtime_ns) == (None,) * 6:
            # The kernel asks for nothing when it has taken a capability away before a write, or chown(-1, -1) was
            # called: the ctime changes. chown(2) here would take the special bits too, which a write by root keeps.
            shown = self._shown(node)
            if stat.S_ISLNK(shown.mode):
                uid = gid = -1
            else:
                mode = stat.S_IMODE(shown.mode)
        if uid is not None or gid is not None:
            content.set_owner(node, -1 if uid is None else uid, -1 if gid is None else gid)
        if mode is not None:
            content.set_mode(node, mode)
        if atime_ns is not None or mtime_ns is not None:
            content.set_times(node, atime_ns, mtime_ns)
        return self._shown(node)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        if self._store.names.intents.is_again(Change.CREATE_XATTR, ino, name):
            # asked by the library to see whether the name is free, as it was at the first time
            raise OSError(errno.ENODATA, "no such attribute")
        return self._store.content.get_xattr(self._store.tree.node(ino), name)

    def lacks_xattr(self, ino: int, name: bytes) -> bool:
        """Whether `getxattr` would find nothing, where that is known at once."""
        node = self._store.tree.nodes.get(ino)
        return node is not None and self._store.content.lacks_xattr(node, name)

    def listxattr(self, ino: int) -> list[bytes]:
        return self._store.content.list_xattrs(self._store.tree.node(ino))

    def setxattr(self, ino: int, name: bytes, value: bytes) -> None:
        self._store.content.set_xattr(self._store.tree.node(ino), name, value)

    def removexattr(self, ino: int, name: bytes) -> None:
        again = self._store.names.intents.is_again(Change.REMOVE_XATTR, ino, name)
        try:
            self._store.content.remove_xattr(self._store.tree.node(ino), name)
        except OSError as error:
            if not (again and error.errno == errno.ENODATA):
                raise

    def statvfs(self) -> os.statvfs_result:
        return self._store.statvfs()

    # -- by path, for the control socket ------------------------------------------------------

    async def resolve(self, path: bytes) -> Node:
        """The node at `path` below the root; symbolic links are followed inside the mount.

        Raises FileNotFoundError, NotADirectoryError, OSError(ELOOP).
        """
        tree = self._store.tree
        parts = [part for part in reversed(path.split(b"/")) if part not in (b"", b".")]
        node = tree.node(1)
        links = 0
        while parts:
            part = parts.pop()
            if part == b"..":
                node = tree.node(node.parent)
                continue
            if not node.is_directory:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory", path)
            directory = await self._directory(node.ino)
            child, status = tree.child(directory, part)
            if (status.st_mode & 0o170000) != 0o120000:
                node = child
                continue
            links += 1
            if links > 40:
                raise OSError(errno.ELOOP, "too many links", path)
            target = self._store.content.target(child)
            parts += [p for p in reversed(target.split(b"/")) if p not in (b"", b".")]
            if target.startswith(b"/"):
                node = tree.node(1)
        return node
