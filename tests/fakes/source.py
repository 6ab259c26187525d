"""A `BlockSource` in memory, and faults as wrappers around any source.

The conformance suite (tests/rpc/test_conformance.py) holds `MemorySource` and the real one to
the same promises.
"""

import stat
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

import trio
import xxhash

from voyfs.core.entry import Entry, Version
from voyfs.core.errors import SourceChanged, SourceError, SourceUnreachable, SourceUnreadable
from voyfs.core.extents import Extent
from voyfs.core.limits import BULK_JOB_FILES, CHUNK, FETCH_BYTES, PIECE_BYTES, REQUEST_OFFERS, STAT_PATHS
from voyfs.core.offers import Offer, digest_of, offered_parts
from voyfs.core.touched import Touched
from voyfs.ports import Attachment, BlockSource, Changed, Digested, InUse, Listing, Piece, Wanted
from voyfs.rpc.wire import path_problem

_Item = TypeVar("_Item")

_BLOCK = 4096  # holes and data alternate in multiples of this, as in most file systems


@dataclass
class Node:
    """One inode. `data` maps block numbers to blocks of a regular file; the rest are holes."""

    inode: int
    mode: int
    uid: int = 0
    gid: int = 0
    rdev: int = 0
    nlink: int = 1
    time_ns: int = 0
    size: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)
    children: dict[bytes, "Node"] = field(default_factory=dict)

    def version(self) -> Version:
        return Version(self.inode, self.size, self.time_ns, self.time_ns)

    def entry(self, name: bytes) -> Entry:
        return Entry(
            name=name,
            mode=self.mode,
            uid=self.uid,
            gid=self.gid,
            rdev=self.rdev,
            nlink=self.nlink,
            blocks=len(self.data) * (_BLOCK // 512),
            atime_ns=self.time_ns,
            device=1,
            version=self.version(),
            target=self.target,
            xattrs=tuple(sorted(self.xattrs.items())),
        )

    def runs(self, extent: Extent) -> Iterator[Piece]:
        start = extent.start
        while start < extent.stop:
            hole = start // _BLOCK not in self.data
            stop = start
            parts = []
            while stop < extent.stop and (stop // _BLOCK not in self.data) == hole:
                end = min((stop // _BLOCK + 1) * _BLOCK, extent.stop)
                if not hole:
                    block = self.data[stop // _BLOCK]
                    parts.append(block[stop % _BLOCK : stop % _BLOCK + end - stop])
                    if end - start > PIECE_BYTES:
                        parts.pop()
                        break
                stop = end
            yield Piece(start, stop - start, None if hole else b"".join(parts))
            start = stop


class MemorySource:
    """A tree in memory. Change it with the methods below; `calls` counts what was asked."""

    def __init__(self) -> None:
        self._inodes = count(2)
        self._clock = count(1_700_000_000_000_000_000, 1_000_000_007)
        self.root = self._node(stat.S_IFDIR | 0o755)
        self.root.nlink = 2
        self.export_id = bytes(range(16))
        self.calls: Counter[str] = Counter()
        self.released = False
        self.changed: dict[bytes, dict[bytes, set[bytes]]] | None = {}  # by mark; None: it cannot tell
        self.written: set[bytes] = set()  # paths that somebody has open for writing
        self.cached: dict[bytes, tuple[Extent, ...]] = {}  # what "memory" holds of files, the last used last

    # Making and changing the tree

    def add_directory(self, path: bytes, mode: int = 0o755) -> Node:
        node = self._put(path, self._node(stat.S_IFDIR | mode))
        node.nlink = 2
        return node

    def add_file(self, path: bytes, data: bytes = b"", mode: int = 0o644) -> Node:
        node = self._put(path, self._node(stat.S_IFREG | mode))
        self._fill(node, 0, data)
        return node

    def add_sparse(self, path: bytes, size: int, parts: Sequence[tuple[int, bytes]]) -> Node:
        """`parts` are (offset, data), each at a multiple of 4096; all else is a hole."""
        node = self.add_file(path)
        for offset, data in parts:
            self._fill(node, offset, data)
        node.size = size
        return node

    def add_symlink(self, path: bytes, target: bytes) -> Node:
        node = self._put(path, self._node(stat.S_IFLNK | 0o777))
        node.target = target
        node.size = len(target)
        return node

    def add_special(self, path: bytes, mode: int, rdev: int = 0) -> Node:
        node = self._put(path, self._node(mode))
        node.rdev = rdev
        return node

    def add_link(self, existing: bytes, path: bytes) -> Node:
        node = self._put(path, self.node(existing))
        node.nlink += 1
        return node

    def set_xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.node(path).xattrs[name] = value
        self._touch(path)

    def write(self, path: bytes, data: bytes) -> None:
        """Replaces a file's content: a new version of the same inode."""
        node = self.node(path)
        node.data.clear()
        self._fill(node, 0, data)
        node.time_ns = next(self._clock)
        self._touch(path)

    def remove(self, path: bytes) -> None:
        parent, name = self._parent(path)
        parent.children.pop(name).nlink -= 1
        self._touch(path)

    def node(self, path: bytes) -> Node:
        """Raises KeyError."""
        node = self.root
        for name in path.split(b"/") if path else ():
            node = node.children[name]
        return node

    def _node(self, mode: int) -> Node:
        return Node(next(self._inodes), mode, time_ns=next(self._clock))

    def _parent(self, path: bytes) -> tuple[Node, bytes]:
        parent, _, name = path.rpartition(b"/")
        return self.node(parent), name

    def _put(self, path: bytes, node: Node) -> Node:
        parent, name = self._parent(path)
        parent.children[name] = node
        if stat.S_ISDIR(node.mode):
            parent.nlink += 1
        self._touch(path)
        return node

    def _touch(self, path: bytes) -> None:
        directory, _, name = path.rpartition(b"/")
        for touched in (self.changed or {}).values():
            touched.setdefault(directory, set()).add(name)

    def _fill(self, node: Node, offset: int, data: bytes) -> None:
        assert offset % _BLOCK == 0
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            node.data[(offset + start) // _BLOCK] = block.ljust(_BLOCK, b"\0")
        node.size = max(offset + len(data), 0)

    # BlockSource

    async def attach(self) -> Attachment:
        await self._called("attach")
        return Attachment(self.export_id, self.root.entry(b""))

    async def list_directory(self, path: bytes, inode: int) -> Listing:
        _sound(path)
        await self._called("list_directory")
        listing = self._listing(path, inode)
        if listing.problem is not None:
            raise SourceChanged(listing.problem)
        return listing

    @asynccontextmanager
    async def walk(self, path: bytes) -> AsyncIterator[AsyncIterator[Listing]]:
        _sound(path)
        await self._called("walk")
        yield self._walk(path)

    async def fetch(
        self, path: bytes, version: Version, extents: Sequence[Extent], offers: Sequence[Offer] = ()
    ) -> list[Piece]:
        _sound(path)
        _check_extents(version, extents)
        _check_offers(extents, offers)
        await self._called("fetch")
        found = self._runs(Wanted(path, version, tuple(extents), tuple(offers)))
        if isinstance(found, SourceError):
            raise found
        return found

    async def fetch_files(self, wanted: Sequence[Wanted]) -> list[list[Piece] | SourceError]:
        for file in wanted:
            _sound(file.path)
            _check_extents(file.version, file.extents)
            _check_offers(file.extents, file.offers)
        if len(wanted) > BULK_JOB_FILES or sum(e.length for file in wanted for e in file.extents) > FETCH_BYTES:
            raise ValueError("too much in one fetch")
        await self._called("fetch_files")
        return [self._runs(file) for file in wanted]

    def _runs(self, file: Wanted) -> list[Piece] | SourceError:
        node = self._found(file.path)
        if node is None or not stat.S_ISREG(node.mode) or node.version() != file.version:
            return SourceChanged(f"{file.path!r} has changed")
        found: list[Piece] = []
        for extent, offered in offered_parts(file.extents, [offer.extent for offer in file.offers]):
            found += _compared(list(node.runs(extent)), [file.offers[index] for index in offered])
        return found

    async def stat(self, paths: Sequence[bytes]) -> list[Entry | None]:
        if len(paths) > STAT_PATHS:
            raise ValueError("too many paths")
        for path in paths:
            _sound(path)
        await self._called("stat")
        nodes = map(self._found, paths)
        return [None if node is None else node.entry(b"") for node in nodes]

    @asynccontextmanager
    async def digest(self, path: bytes) -> AsyncIterator[AsyncIterator[Digested]]:
        _sound(path)
        await self._called("digest")
        yield self._digest(path)

    @asynccontextmanager
    async def working_set(self, path: bytes, *, still: bool = False) -> AsyncIterator[AsyncIterator[InUse]]:
        _sound(path)
        await self._called("working_set")
        yield self._working_set(path, self.written if still else set())

    async def watch(self) -> bytes:
        await self._called("watch")
        if self.changed is None:
            raise SourceUnreadable("what changes there is not known")
        mark = b"mark %d" % next(self._inodes)
        self.changed[mark] = {}
        return mark

    async def changes(self, mark: bytes) -> Changed:
        await self._called("changes")
        touched = (self.changed or {}).pop(mark, None)
        if touched is None:
            raise SourceUnreadable("what changes there is not known")
        return Changed(
            tuple(Touched(path, tuple(sorted(names))) for path, names in sorted(touched.items())), frozenset()
        )

    async def release(self) -> None:
        await self._called("release")
        self.released = True

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    @property
    def reachable(self) -> bool:
        return bool(self.calls)

    async def _called(self, method: str) -> None:
        self.calls[method] += 1
        await trio.lowlevel.checkpoint()

    def _found(self, path: bytes) -> Node | None:
        try:
            return self.node(path)
        except KeyError:
            return None

    def _listing(self, path: bytes, inode: int) -> Listing:
        node = self._found(path)
        if node is None or not stat.S_ISDIR(node.mode) or inode not in (0, node.inode):
            return Listing(path, inode, (), f"{path!r} has changed")
        entries = tuple(child.entry(name) for name, child in node.children.items())
        return Listing(path, node.inode, entries)

    async def _walk(self, path: bytes) -> AsyncIterator[Listing]:
        pending = [path]
        while pending:
            await trio.lowlevel.checkpoint()
            listing = self._listing(pending.pop(0), 0)
            pending.extend(_below(listing.path, entry.name) for entry in listing.entries if entry.is_directory)
            yield listing

    async def _working_set(self, path: bytes, without: set[bytes]) -> AsyncIterator[InUse]:
        for name, extents in reversed(self.cached.items()):
            await trio.lowlevel.checkpoint()
            node = self._found(name)
            if node is not None and name not in without and name.startswith(_below(path, b"")):
                yield InUse(name, node.version(), extents, cached=True)

    async def _digest(self, path: bytes) -> AsyncIterator[Digested]:
        node = self._found(path)
        if node is None:
            yield Digested(path, None, b"", f"{path!r} has changed")
            return
        pending = [(path, b"", node)]
        while pending:
            await trio.lowlevel.checkpoint()
            path, name, node = pending.pop(0)
            digest = b""
            if stat.S_ISREG(node.mode):
                whole = xxhash.xxh3_128()
                for piece in node.runs(Extent(0, node.size)):
                    whole.update(bytes(piece.length) if piece.data is None else piece.data)
                digest = whole.digest()
            pending.extend((_below(path, name), name, child) for name, child in node.children.items())
            yield Digested(path, node.entry(name), digest)


def _below(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name


def _sound(path: bytes) -> None:
    if path_problem(path) is not None:
        raise ValueError(f"not a path of an export: {path!r}")


def _check_extents(version: Version, extents: Sequence[Extent]) -> None:
    end = 0
    for extent in extents:
        if not end <= extent.start < extent.stop <= version.size:
            raise ValueError("extents that are empty, not ascending, or past the end")
        end = extent.stop
    if sum(extent.length for extent in extents) > FETCH_BYTES:
        raise ValueError("too much in one fetch")


def _check_offers(extents: Sequence[Extent], offers: Sequence[Offer]) -> None:
    before = Extent(0, 0)
    for extent in [offer.extent for offer in offers]:
        if not any(around.start <= extent.start < extent.stop <= around.stop for around in extents):
            raise ValueError("an offer that is empty, or not within an extent")
        if extent.length > CHUNK or (extent != before and extent.start < before.stop):
            raise ValueError("offers that are too long, or not ascending")
        before = extent
    if len(offers) > REQUEST_OFFERS:
        raise ValueError("too many offers")


def _compared(pieces: list[Piece], offers: list[Offer]) -> list[Piece]:
    if len(pieces) == 1 and pieces[0].data is not None:
        for offer in offers:
            if offer.digest == digest_of(pieces[0].data):
                return [Piece(offer.start, len(offer.data), offer.data, offered=True)]
    return pieces


class FaultySource:
    """Any source, with faults on demand; without them it changes nothing.

    `fail(method, n, error)`: the n-th call from now raises. `hold(method)`: calls wait until
    the event returned is set; `waiting[method]` counts those. `cut()`: calls wait, or raise
    SourceUnreachable with `patient=False`, until `mend()`.
    """

    def __init__(self, source: BlockSource) -> None:
        self._source = source
        self._failures: dict[tuple[str, int], Exception] = {}
        self._holds: dict[str, trio.Event] = {}
        self._mended: trio.Event | None = None
        self._patient = True
        self._calls: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()

    def fail(self, method: str, n: int, error: Exception) -> None:
        self._failures[method, self._calls[method] + n] = error

    def hold(self, method: str) -> trio.Event:
        self._holds[method] = trio.Event()
        return self._holds[method]

    def cut(self, *, patient: bool = True) -> None:
        self._mended = trio.Event()
        self._patient = patient

    def mend(self) -> None:
        if self._mended is not None:
            self._mended.set()
        self._mended = None

    async def _pass(self, method: str) -> None:
        self._calls[method] += 1
        number = self._calls[method]
        if method in self._holds:
            self.waiting[method] += 1
            try:
                await self._holds[method].wait()
            finally:
                self.waiting[method] -= 1
        while self._mended is not None:
            if not self._patient:
                raise SourceUnreachable("the link is cut")
            await self._mended.wait()
        if (error := self._failures.pop((method, number), None)) is not None:
            raise error

    async def attach(self) -> Attachment:
        await self._pass("attach")
        return await self._source.attach()

    async def list_directory(self, path: bytes, inode: int) -> Listing:
        await self._pass("list_directory")
        return await self._source.list_directory(path, inode)

    def walk(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[Listing]]:
        return self._streamed("walk", self._source.walk(path))

    async def fetch(
        self, path: bytes, version: Version, extents: Sequence[Extent], offers: Sequence[Offer] = ()
    ) -> list[Piece]:
        await self._pass("fetch")
        return await self._source.fetch(path, version, extents, offers)

    async def fetch_files(self, wanted: Sequence[Wanted]) -> list[list[Piece] | SourceError]:
        await self._pass("fetch_files")
        return await self._source.fetch_files(wanted)

    async def stat(self, paths: Sequence[bytes]) -> list[Entry | None]:
        await self._pass("stat")
        return await self._source.stat(paths)

    def digest(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[Digested]]:
        return self._streamed("digest", self._source.digest(path))

    def working_set(self, path: bytes, *, still: bool = False) -> AbstractAsyncContextManager[AsyncIterator[InUse]]:
        return self._streamed("working_set", self._source.working_set(path, still=still))

    async def watch(self) -> bytes:
        await self._pass("watch")
        return await self._source.watch()

    async def changes(self, mark: bytes) -> Changed:
        await self._pass("changes")
        return await self._source.changes(mark)

    async def release(self) -> None:
        await self._pass("release")
        await self._source.release()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()

    @property
    def reachable(self) -> bool:
        return self._mended is None and self._source.reachable

    @asynccontextmanager
    async def _streamed(
        self, method: str, stream: AbstractAsyncContextManager[AsyncIterator[_Item]]
    ) -> AsyncIterator[AsyncIterator[_Item]]:
        await self._pass(method)
        async with stream as items:
            yield items
