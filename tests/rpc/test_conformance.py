"""One suite for every `BlockSource`: the fake, the fake behind a fault wrapper, and gRPC."""

import mmap
import os
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio
import xxhash

from tests.fakes.source import FaultySource, MemorySource
from tests.rpc.support import entry_at, in_trio, joined, keep_cached, serving, whole
from voyfs.core.errors import SourceChanged, SourceUnreadable
from voyfs.core.extents import Extent
from voyfs.core.limits import BULK_JOB_FILES, CHUNK, FETCH_BYTES, REQUEST_OFFERS, STAT_PATHS
from voyfs.core.offers import Offer, digest_of
from voyfs.ports import BlockSource, Digested, Listing, Wanted
from voyfs.rpc.client import GrpcSource
from voyfs.rpc.loss import SourceLoss

BIG = os.urandom(3 * 1024 * 1024 + 12345)


class World(Protocol):
    """A tree that a source offers, and the ways in which it changes."""

    def source(self) -> Any: ...
    def directory(self, path: bytes) -> None: ...
    def file(self, path: bytes, data: bytes) -> None: ...
    def sparse(self, path: bytes, size: int, parts: Sequence[tuple[int, bytes]]) -> None: ...
    def symlink(self, path: bytes, target: bytes) -> None: ...
    def fifo(self, path: bytes) -> None: ...
    def device(self, path: bytes, rdev: int) -> None: ...
    def link(self, existing: bytes, path: bytes) -> None: ...
    def xattr(self, path: bytes, name: bytes, value: bytes) -> None: ...
    def remove(self, path: bytes) -> None: ...
    def use(self, path: bytes, extents: Sequence[Extent]) -> None: ...
    def writing(self, path: bytes) -> AbstractContextManager[None]: ...


class MemoryWorld:
    def __init__(self) -> None:
        self.memory = MemorySource()

    def source(self) -> Any:
        return self.memory

    def directory(self, path: bytes) -> None:
        self.memory.add_directory(path)

    def file(self, path: bytes, data: bytes) -> None:
        try:
            self.memory.node(path)
        except KeyError:
            self.memory.add_file(path, data)
        else:
            self.memory.write(path, data)

    def sparse(self, path: bytes, size: int, parts: Sequence[tuple[int, bytes]]) -> None:
        self.memory.add_sparse(path, size, parts)

    def symlink(self, path: bytes, target: bytes) -> None:
        self.memory.add_symlink(path, target)

    def fifo(self, path: bytes) -> None:
        self.memory.add_special(path, stat.S_IFIFO | 0o644)

    def device(self, path: bytes, rdev: int) -> None:
        self.memory.add_special(path, stat.S_IFCHR | 0o600, rdev)

    def link(self, existing: bytes, path: bytes) -> None:
        self.memory.add_link(existing, path)

    def xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        self.memory.set_xattr(path, name, value)

    def remove(self, path: bytes) -> None:
        self.memory.remove(path)

    def use(self, path: bytes, extents: Sequence[Extent]) -> None:
        self.memory.cached.pop(path, None)
        if extents:
            self.memory.cached[path] = tuple(extents)

    @contextmanager
    def writing(self, path: bytes) -> Iterator[None]:
        self.memory.written.add(path)
        yield
        self.memory.written.remove(path)


class WrappedWorld(MemoryWorld):
    def source(self) -> Any:
        return FaultySource(self.memory)


class GrpcWorld:
    def __init__(self, top: Path, stack: ExitStack) -> None:
        self._top = os.fsencode(top)
        self._server = stack.enter_context(serving(top))
        self._used = time.time_ns()

    def source(self) -> Any:
        return GrpcSource(str(self._server.address), loss=SourceLoss(5))

    def _at(self, path: bytes) -> bytes:
        return self._top + b"/" + path

    def directory(self, path: bytes) -> None:
        os.mkdir(self._at(path))

    def file(self, path: bytes, data: bytes) -> None:
        with open(self._at(path), "wb") as file:
            file.write(data)

    def sparse(self, path: bytes, size: int, parts: Sequence[tuple[int, bytes]]) -> None:
        with open(self._at(path), "wb") as file:
            file.truncate(size)
            for offset, data in parts:
                file.seek(offset)
                file.write(data)

    def symlink(self, path: bytes, target: bytes) -> None:
        os.symlink(target, self._at(path))

    def fifo(self, path: bytes) -> None:
        os.mkfifo(self._at(path))

    def device(self, path: bytes, rdev: int) -> None:
        os.mknod(self._at(path), stat.S_IFCHR | 0o600, rdev)

    def link(self, existing: bytes, path: bytes) -> None:
        os.link(self._at(existing), self._at(path))

    def xattr(self, path: bytes, name: bytes, value: bytes) -> None:
        os.setxattr(self._at(path), name, value, follow_symlinks=False)

    def remove(self, path: bytes) -> None:
        os.unlink(self._at(path))

    def use(self, path: bytes, extents: Sequence[Extent]) -> None:
        keep_cached(Path(os.fsdecode(self._at(path))), extents)
        self._used += 1_000_000_000  # further apart than the kernel's clock ticks
        os.utime(self._at(path), ns=(self._used, os.stat(self._at(path)).st_mtime_ns))

    @contextmanager
    def writing(self, path: bytes) -> Iterator[None]:
        with open(self._at(path), "r+b") as file, mmap.mmap(file.fileno(), 0):
            file.close()  # the mapping keeps it open
            yield


@pytest.fixture(params=["memory", "wrapped", "grpc"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        if request.param == "memory":
            yield MemoryWorld()
        elif request.param == "wrapped":
            yield WrappedWorld()
        else:
            yield GrpcWorld(tmp_path, stack)


def conforms(
    test: Callable[[World, BlockSource], Awaitable[None]],
) -> Callable[[World], None]:
    """A test of the suite: it is given the world and a source of it."""

    @in_trio
    async def run(world: World) -> None:
        source = world.source()
        try:
            await test(world, source)
        finally:
            await source.close()

    def suite(world: World) -> None:
        run(world)

    suite.__doc__ = test.__doc__
    return suite


@conforms
async def test_attach_tells_the_same_identity_and_root_each_time(world: World, source: BlockSource) -> None:
    first = await source.attach()
    second = await source.attach()
    assert len(first.export_id) == 16
    assert first.export_id == second.export_id
    assert first.root.is_directory
    assert first.root.name == b""
    assert source.reachable


@conforms
async def test_a_directory_lists_every_kind_of_entry(world: World, source: BlockSource) -> None:
    world.directory(b"dir")
    world.file(b"file", b"content")
    world.symlink(b"sym", b"../no/where")
    world.fifo(b"fifo")
    world.device(b"dev", os.makedev(10, 229))
    world.link(b"file", b"dir/hard")
    world.file(b"\xff\xfe not unicode\n", b"")
    world.xattr(b"file", b"user.colour", b"\x00blue\xff")
    root = (await source.attach()).root
    listing = await source.list_directory(b"", root.version.inode)
    assert (listing.path, listing.inode, listing.problem) == (b"", root.version.inode, None)
    entries = {entry.name: entry for entry in listing.entries}
    assert len(entries) == len(listing.entries) == 6
    assert entries[b"dir"].is_directory
    assert entries[b"sym"].is_symlink
    assert entries[b"sym"].target == b"../no/where"
    assert stat.S_ISFIFO(entries[b"fifo"].mode)
    assert stat.S_ISCHR(entries[b"dev"].mode)
    assert entries[b"dev"].rdev == os.makedev(10, 229)
    file = entries[b"file"]
    assert (file.is_file, file.size, file.nlink) == (True, 7, 2)
    assert (b"user.colour", b"\x00blue\xff") in file.xattrs
    (hard,) = (await source.list_directory(b"dir", 0)).entries
    assert (hard.name, hard.device, hard.version) == (b"hard", file.device, file.version)


@conforms
async def test_another_directory_of_that_name_is_a_change(world: World, source: BlockSource) -> None:
    world.directory(b"dir")
    world.file(b"file", b"")
    inode = (await source.list_directory(b"dir", 0)).inode
    assert (await source.list_directory(b"dir", inode)).entries == ()
    for path, expected in ((b"dir", inode + 1), (b"gone", 0), (b"file", 0), (b"file/x", 0)):
        with pytest.raises(SourceChanged):
            await source.list_directory(path, expected)


async def _walked(source: BlockSource, path: bytes) -> list[Listing]:
    async with source.walk(path) as listings:
        return [listing async for listing in listings]


@conforms
async def test_a_walk_tells_every_directory_once_parents_first(world: World, source: BlockSource) -> None:
    for path in (b"a", b"a/b", b"a/b/c", b"d", b"d/e"):
        world.directory(path)
        world.file(path + b"/file", path)
    listings = await _walked(source, b"")
    paths = [listing.path for listing in listings]
    assert sorted(paths) == [b"", b"a", b"a/b", b"a/b/c", b"d", b"d/e"]
    for path in paths[1:]:
        assert path.rpartition(b"/")[0] in paths[: paths.index(path)]
    for listing in listings:
        assert listing == await source.list_directory(listing.path, listing.inode)
    below = await _walked(source, b"a/b")
    assert [listing.path for listing in below] == [b"a/b", b"a/b/c"]


@conforms
async def test_a_walk_can_be_left_and_tells_of_what_it_cannot_read(world: World, source: BlockSource) -> None:
    for number in range(50):
        world.directory(b"%d" % number)
    async with source.walk(b"") as listings:
        async for listing in listings:
            assert listing.path == b""
            break
    (lost,) = await _walked(source, b"lost")
    assert lost.problem is not None
    assert lost.entries == ()


@conforms
async def test_any_ranges_of_a_file_are_its_bytes(world: World, source: BlockSource) -> None:
    world.file(b"big", BIG)
    version = (await entry_at(source, b"big")).version
    for extents in (
        [Extent(0, 1)],
        [Extent(0, FETCH_BYTES)],
        [Extent(1, 2), Extent(2, 3), Extent(100_000, 1_500_001)],
        [Extent(len(BIG) - 7, len(BIG))],
        [Extent(1_000_000, 2_500_000), Extent(len(BIG) - 100_000, len(BIG))],
        [],
    ):
        pieces = await source.fetch(b"big", version, extents)
        position = [n for extent in extents for n in (extent.start, extent.stop)]
        assert joined(pieces) == b"".join(BIG[e.start : e.stop] for e in extents)
        assert all(piece.data is not None for piece in pieces)
        starts = [piece.start for piece in pieces]
        assert starts == sorted(starts)
        assert position == [] or starts[0] == position[0]


@conforms
async def test_holes_stay_holes(world: World, source: BlockSource) -> None:
    block = os.urandom(65536)
    world.sparse(b"sparse", 1 << 30, [(1 << 20, block), ((1 << 30) - 65536, block)])
    version = (await entry_at(source, b"sparse")).version
    size = 2 << 20
    pieces = await source.fetch(b"sparse", version, [Extent(0, size)])
    assert joined(pieces) == bytes(1 << 20) + block + bytes(size - (1 << 20) - 65536)
    assert sum(piece.length for piece in pieces if piece.data is None) == size - 65536
    (hole,) = await source.fetch(b"sparse", version, [Extent(123, size - (1 << 20))])
    assert (hole.start, hole.length, hole.data) == (123, (1 << 20) - 123, None)
    end = await source.fetch(b"sparse", version, [Extent((1 << 30) - 65536, 1 << 30)])
    assert joined(end) == block


def offer(start: int, data: bytes) -> Offer:
    return Offer(start, data, digest_of(data))


@conforms
async def test_what_is_offered_and_the_same_is_taken(world: World, source: BlockSource) -> None:
    world.file(b"big", BIG)
    version = (await entry_at(source, b"big")).version
    extents = [Extent(0, 3 * CHUNK), Extent(1_000_000, 1_200_000), Extent(len(BIG) - 10, len(BIG))]
    mine = bytearray(BIG[CHUNK : 2 * CHUNK])
    other = bytes(mine[:-1]) + bytes([mine[-1] ^ 1])
    offers = [
        offer(0, BIG[:CHUNK]),
        offer(CHUNK, other),
        offer(CHUNK, bytes(mine)),  # the second of one range
        offer(2 * CHUNK + 5, BIG[2 * CHUNK : 3 * CHUNK - 5]),  # the same bytes, but of elsewhere
        offer(1_000_100, BIG[1_000_100:1_000_200]),
        offer(len(BIG) - 10, BIG[-10:]),
    ]
    pieces = await source.fetch(b"big", version, extents, offers)
    assert joined(pieces) == b"".join(BIG[e.start : e.stop] for e in extents)
    taken = [(piece.start, piece.data) for piece in pieces if piece.offered]
    assert taken == [(offers[index].start, offers[index].data) for index in (0, 2, 4, 5)]
    assert sum(piece.sent for piece in pieces) == CHUNK + 200_000 - 100


@conforms
async def test_what_is_offered_for_holes_leaves_them(world: World, source: BlockSource) -> None:
    block = os.urandom(65536)
    world.sparse(b"sparse", 4 * CHUNK, [(CHUNK, block)])
    version = (await entry_at(source, b"sparse")).version
    offers = [offer(0, bytes(CHUNK)), offer(CHUNK, block + bytes(CHUNK - 65536))]
    pieces = await source.fetch(b"sparse", version, [Extent(0, 2 * CHUNK)], offers)
    assert joined(pieces) == bytes(CHUNK) + block + bytes(CHUNK - 65536)
    assert [piece.offered for piece in pieces] == [False] * len(pieces)
    assert sum(piece.length for piece in pieces if piece.data is None) == 2 * CHUNK - 65536


@conforms
async def test_offers_for_a_file_that_has_changed_do_not_count(world: World, source: BlockSource) -> None:
    world.file(b"file", b"one")
    before = (await entry_at(source, b"file")).version
    world.file(b"file", b"two")
    with pytest.raises(SourceChanged):
        await source.fetch(b"file", before, [Extent(0, 3)], [offer(0, b"one")])


@conforms
async def test_impossible_offers_are_an_error_of_the_caller(world: World, source: BlockSource) -> None:
    world.file(b"big", BIG)
    version = (await entry_at(source, b"big")).version
    for offers in (
        [offer(5, b"")],
        [offer(99, b"xx")],
        [offer(300, b"x")],
        [offer(1 << 20, b"x")],
        [offer(20, b"xx"), offer(21, b"xx")],
        [offer(20, b"xx"), offer(10, b"x")],
        [offer(1 << 21, bytes(CHUNK + 1))],
        [offer(0, b"x")] * (REQUEST_OFFERS + 1),
    ):
        extents = [Extent(0, 100), Extent(200, 300), Extent(1 << 21, (1 << 21) + 2 * CHUNK)]
        with pytest.raises(ValueError, match=r"."):
            await source.fetch(b"big", version, extents, offers)


@conforms
async def test_several_files_come_in_one_call_and_each_fails_alone(world: World, source: BlockSource) -> None:
    contents = [os.urandom(number * 100 + 1) for number in range(20)]
    for number, content in enumerate(contents):
        world.file(b"%d" % number, content)
    world.directory(b"dir")
    wanted = []
    for number, content in enumerate(contents):
        entry = await entry_at(source, b"%d" % number)
        wanted.append(Wanted(b"%d" % number, entry.version, (Extent(0, len(content)),)))
    other = wanted[0].version
    for path in (b"none", b"dir", b"7"):
        wanted.insert(5, Wanted(path, other, (Extent(0, 1),)))
    found = await source.fetch_files(wanted)
    failed, had = found[5:8], found[:5] + found[8:]
    assert [type(each) for each in failed] == [SourceChanged] * 3
    assert [joined(each) for each in had if not isinstance(each, Exception)] == contents
    assert await source.fetch_files([]) == []
    for bad in ([*wanted, Wanted(b"..", other, ())], [wanted[0]] * (BULK_JOB_FILES + 1)):
        with pytest.raises(ValueError, match=r"."):
            await source.fetch_files(bad)


@conforms
async def test_a_changed_replaced_or_removed_file_is_a_change(world: World, source: BlockSource) -> None:
    world.file(b"file", b"one")
    world.file(b"other", b"one")
    world.directory(b"dir")
    before = (await entry_at(source, b"file")).version
    assert await whole(source, b"file") == b"one"
    world.file(b"file", b"two")
    with pytest.raises(SourceChanged):
        await source.fetch(b"file", before, [Extent(0, 3)])
    assert await whole(source, b"file") == b"two"
    for path in (b"other", b"dir", b"none", b"file/below"):
        with pytest.raises(SourceChanged):
            await source.fetch(path, before, [Extent(0, 3)])
    now = (await entry_at(source, b"file")).version
    world.remove(b"file")
    with pytest.raises(SourceChanged):
        await source.fetch(b"file", now, [Extent(0, 3)])


@conforms
async def test_stat_tells_of_each_path_in_order(world: World, source: BlockSource) -> None:
    world.directory(b"dir")
    world.file(b"dir/file", b"12345")
    world.symlink(b"sym", b"dir")
    found = await source.stat([b"dir/file", b"none", b"", b"sym", b"sym/file", b"dir/file/x"])
    file, none, root, sym, through, below = found
    assert file is not None
    assert (file.name, file.size) == (b"", 5)
    assert (none, below) == (None, None)
    assert root is not None
    assert root.is_directory
    assert sym is not None
    assert sym.is_symlink
    assert through is None
    assert await source.stat([]) == []
    many = await source.stat([b"dir/file"] * STAT_PATHS)
    assert many == [file] * STAT_PATHS


@conforms
async def test_what_changes_after_a_mark_is_told_once(world: World, source: BlockSource) -> None:
    world.directory(b"dir")
    world.file(b"dir/before", b"1")
    await source.attach()
    mark = await source.watch()
    assert await source.watch() != mark
    world.file(b"dir/before", b"2")
    world.file(b"new", b"3")
    world.remove(b"new")
    changed = await source.changes(mark)
    assert {each.path: each.names for each in changed.touched} == {b"": (b"new",), b"dir": (b"before",)}
    for unknown in (mark, b"none of the source's"):
        with pytest.raises(SourceUnreadable):
            await source.changes(unknown)


@conforms
async def test_what_somebody_may_write_into_is_left_out_if_asked(world: World, source: BlockSource) -> None:
    for name in (b"still", b"written"):
        world.file(name, b"12345")
        world.use(name, [Extent(0, 5)])
    with world.writing(b"written"):
        async with source.working_set(b"", still=True) as used:
            assert [file.path async for file in used] == [b"still"]
        async with source.working_set(b"") as used:
            assert sorted([file.path async for file in used]) == [b"still", b"written"]
    async with source.working_set(b"", still=True) as used:
        assert sorted([file.path async for file in used]) == [b"still", b"written"]


@conforms
async def test_digests_cover_everything_parents_first(world: World, source: BlockSource) -> None:
    world.directory(b"dir")
    world.file(b"dir/big", BIG)
    world.file(b"empty", b"")
    world.sparse(b"sparse", 1 << 20, [(4096, b"x" * 4096)])
    world.symlink(b"sym", b"dir")
    async with source.digest(b"") as digests:
        found = {digested.path: digested async for digested in digests}
    content = {
        b"dir/big": BIG,
        b"empty": b"",
        b"sparse": bytes(4096) + b"x" * 4096 + bytes((1 << 20) - 8192),
    }
    assert sorted(found) == [b"", b"dir", b"dir/big", b"empty", b"sparse", b"sym"]
    assert next(iter(found)) == b""
    for path, digested in found.items():
        assert digested.problem is None
        assert digested.entry is not None
        expected = xxhash.xxh3_128(content[path]).digest() if path in content else b""
        assert digested.content == expected, path
    async with source.digest(b"dir/big") as digests:
        below: list[Digested] = [digested async for digested in digests]
    assert [digested.path for digested in below] == [b"dir/big"]


@conforms
async def test_what_no_caller_should_ask_is_an_error_of_the_caller(world: World, source: BlockSource) -> None:
    world.file(b"big", BIG)
    version = (await entry_at(source, b"big")).version
    for extents in (
        [Extent(0, FETCH_BYTES + 1)],
        [Extent(5, 5)],
        [Extent(10, 20), Extent(15, 30)],
        [Extent(20, 30), Extent(0, 10)],
        [Extent(0, len(BIG) + 1)],
    ):
        with pytest.raises(ValueError, match=r"."):
            await source.fetch(b"big", version, extents)
    with pytest.raises(ValueError, match=r"."):
        await source.stat([b""] * (STAT_PATHS + 1))
    for path in (b"/etc", b"..", b"a/../b", b"a//b", b"a/", b".", b"x\0y", b"n" * 256):
        with pytest.raises(ValueError, match=r"."):
            await source.list_directory(path, 0)
        with pytest.raises(ValueError, match=r"."):
            await source.fetch(path, version, [Extent(0, 1)])


@conforms
async def test_a_cancelled_call_ends_at_once(world: World, source: BlockSource) -> None:
    world.file(b"big", BIG)
    version = (await entry_at(source, b"big")).version
    with trio.CancelScope() as scope:
        scope.cancel()
        await source.fetch(b"big", version, [Extent(0, FETCH_BYTES)])
    assert scope.cancelled_caught
    assert joined(await source.fetch(b"big", version, [Extent(0, 100)])) == BIG[:100]


@conforms
async def test_release_is_answered(world: World, source: BlockSource) -> None:
    await source.release()
    assert source.reachable


@conforms
async def test_the_working_set_is_what_was_used_by_range_the_last_first(world: World, source: BlockSource) -> None:
    world.directory(b"d")
    for name in (b"big", b"d/one", b"d/two", b"cold"):
        world.file(name, os.urandom(8 * CHUNK + 5))
    parts = [Extent(CHUNK, 3 * CHUNK), Extent(8 * CHUNK, 8 * CHUNK + 5)]
    world.use(b"cold", [])
    world.use(b"d/one", [Extent(0, CHUNK)])
    world.use(b"big", parts)
    world.use(b"d/two", [Extent(0, 8 * CHUNK + 5)])
    async with source.working_set(b"") as files:
        found = [file async for file in files]
    assert [file.path for file in found if file.cached] == [b"d/two", b"big", b"d/one"]
    assert [file.extents for file in found if file.cached] == [
        (Extent(0, 8 * CHUNK + 5),),
        tuple(parts),
        (Extent(0, CHUNK),),
    ]
    for file in found:
        assert file.version == (await entry_at(source, file.path)).version
    async with source.working_set(b"d") as files:
        assert [file.path async for file in files if file.cached] == [b"d/two", b"d/one"]


@conforms
async def test_the_working_set_of_what_is_not_there_is_empty(world: World, source: BlockSource) -> None:
    async with source.working_set(b"missing") as files:
        assert [file async for file in files] == []
    with pytest.raises(ValueError, match="not a path"):
        async with source.working_set(b"../up") as files:
            assert [file async for file in files] == []
