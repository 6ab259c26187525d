"""Semantics and fetching together, on a source in memory whose calls can be held and failed."""

import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.source import FaultySource, MemorySource
from tests.store.support import in_thread, in_trio
from tests.support.trees import CAPABILITY
from voyfs.core.entry import Entry
from voyfs.core.errors import SourceChanged, SourceUnreachable
from voyfs.core.limits import CHUNK
from voyfs.hydrator import Hydrator
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node, Tree
from voyfs.turns import ROUNDS
from voyfs.vfs import Owner, Vfs

OWNER = Owner(0, 0, 0o022)
CONTENT = bytes(index // 512 % 251 for index in range(6 * CHUNK))


class Mounted:
    def __init__(self, store: Store, source: MemorySource, faulty: FaultySource) -> None:
        self.store = store
        self.source = source
        self.faulty = faulty
        self.hydrator = Hydrator(store, faulty)
        self.vfs = Vfs(store, self.hydrator)
        self.fetched = 0

    async def look(self, path: str) -> int:
        ino = ROOT
        for part in path.encode().split(b"/"):
            ino = (await self.vfs.lookup(ino, part)).ino
        return ino

    async def read(self, ino: int) -> bytes:
        size = self.vfs.getattr(ino).size
        return bytes(await self.vfs.read(ino, 0, size + 1))


@asynccontextmanager
async def mounted(path: Path, *, taking_over: bool = False) -> AsyncIterator[Mounted]:
    source = MemorySource()
    source.add_file(b"f", CONTENT)
    source.add_directory(b"d")
    source.add_file(b"d/g", b"g")
    faulty = FaultySource(source)
    store = Store(path, "this boot", taking_over=taking_over)
    try:
        made = Mounted(store, source, faulty)
        await made.hydrator.attach()
        yield made
    finally:
        store.close()


@in_trio
async def test_many_readers_share_one_fetch(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        go_on = made.faulty.hold("fetch")
        results = []

        async def read() -> None:
            results.append(bytes(await made.vfs.read(ino, 0, CHUNK)))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert made.faulty.waiting["fetch"] == 1
            go_on.set()
        assert results == [CONTENT[:CHUNK]] * 20
        assert made.hydrator.progress.demand_fetches == 1


@in_trio
async def test_one_reader_that_gives_up_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        go_on = made.faulty.hold("fetch")
        async with trio.open_nursery() as nursery:
            first = trio.CancelScope()

            async def give_up() -> None:
                with first:
                    await made.vfs.read(ino, 0, CHUNK)

            results = []

            async def read() -> None:
                results.append(bytes(await made.vfs.read(ino, 0, CHUNK)))

            nursery.start_soon(give_up)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            first.cancel()
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
        assert results == [CONTENT[:CHUNK]]


@in_trio
async def test_a_fetch_brings_nothing_back_that_was_cut_meanwhile(tmp_path: Path) -> None:
    """Else the bytes would land after the cut, and come back when the file grows."""
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        go_on = made.faulty.hold("fetch")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.vfs.read, ino, 2 * CHUNK, CHUNK)
            await trio.testing.wait_all_tasks_blocked()
            await made.vfs.truncate(ino, 2 * CHUNK + 10)  # needs no source, so it does not wait for one
            await made.vfs.truncate(ino, 4 * CHUNK)
            go_on.set()
        assert await made.read(ino) == CONTENT[: 2 * CHUNK + 10] + bytes(2 * CHUNK - 10)


@in_trio
async def test_a_fetch_does_not_come_over_what_was_written_meanwhile(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        go_on = made.faulty.hold("fetch")
        seen: list[bytes] = []

        async def read() -> None:
            seen.append(bytes(await made.vfs.read(ino, 0, 3 * CHUNK)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await made.vfs.write(ino, CHUNK, b"w" * CHUNK)
            go_on.set()
        expected = CONTENT[:CHUNK] + b"w" * CHUNK + CONTENT[2 * CHUNK :]
        assert seen == [expected[: 3 * CHUNK]]
        assert await made.read(ino) == expected


@in_trio
async def test_a_change_waits_for_what_the_background_brings(tmp_path: Path) -> None:
    """Another process writes that: it cannot be told to leave out a part."""
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        node = made.vfs.node(ino)
        flight = made.hydrator.claim(node, [1, 2], in_hand=False)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.vfs.write, ino, CHUNK, b"w" * CHUNK)
            nursery.start_soon(made.vfs.truncate, ino, 2 * CHUNK)
            await trio.testing.wait_all_tasks_blocked()
            assert node.record is not None
            assert node.record.presence is not None
            assert node.record.presence.missing([1, 2]) == [1, 2]
            assert made.vfs.getattr(ino).size == len(CONTENT)
            made.hydrator.land(node, flight)
        assert await made.read(ino) == CONTENT[:CHUNK] + b"w" * CHUNK


@in_trio
async def test_lasting_demand_does_not_hold_up_the_background_for_ever(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        made.hydrator.demand_begins()
        await made.hydrator.give_way()
        made.hydrator.demand_ends()


@in_trio
async def test_the_background_works_in_turns_while_the_mount_is_used(tmp_path: Path) -> None:
    """Each of its slices comes after rounds of the loop in which a program's call can be carried out."""
    async with mounted(tmp_path / "s") as made, trio.open_nursery() as nursery:
        rounds = 0
        slices: list[int] = []

        async def background() -> None:
            for _ in range(4):
                made.vfs.called()
                await made.hydrator.turns.give()
                slices.append(rounds)

        async def others() -> None:
            nonlocal rounds
            while len(slices) < 12:
                rounds += 1
                await trio.lowlevel.checkpoint()

        for _ in range(3):
            nursery.start_soon(background)
        nursery.start_soon(others)
        with trio.fail_after(5):
            while len(slices) < 12:
                await trio.lowlevel.checkpoint()
    assert all(later - earlier >= ROUNDS - 1 for earlier, later in itertools.pairwise(slices))


@in_trio
async def test_names_that_somebody_waits_for_give_no_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mounted(tmp_path / "s") as made, trio.open_nursery() as nursery:
        root = made.store.tree.node(ROOT)
        listing = await made.faulty.list_directory(b"", root.record.version.inode)  # type: ignore[union-attr]
        go, given = trio.Event(), 0

        async def entries() -> Sequence[Entry]:
            await go.wait()
            return listing.entries

        async def give(worked: float) -> None:
            nonlocal given
            given += 1

        monkeypatch.setattr(made.hydrator.turns, "give", give)
        nursery.start_soon(partial(made.hydrator.fill, root, entries(), behind=True))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(made.hydrator.populate, root)
        await trio.testing.wait_all_tasks_blocked()
        go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert made.store.usable(root)
        assert given == 0


@in_trio
async def test_a_partial_write_fetches_its_chunk_and_a_whole_one_none(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        await made.vfs.write(ino, CHUNK, b"w" * CHUNK)
        assert made.hydrator.progress.demand_fetches == 0
        await made.vfs.write(ino, 3 * CHUNK + 5, b"x")
        assert made.hydrator.progress.demand_fetches == 1
        assert made.hydrator.progress.fetched_bytes == CHUNK
        await made.vfs.write(ino, len(CONTENT) + 100, b"far")
        expected = bytearray(CONTENT + bytes(100) + b"far")
        expected[CHUNK : 2 * CHUNK] = b"w" * CHUNK
        expected[3 * CHUNK + 5] = ord("x")
        assert await made.read(ino) == expected


@in_trio
async def test_truncate_fetches_nothing(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        made.faulty.cut()
        await made.vfs.truncate(ino, CHUNK + 7)
        await made.vfs.truncate(ino, 2 * CHUNK)
        made.faulty.mend()
        assert await made.read(ino) == CONTENT[: CHUNK + 7] + bytes(CHUNK - 7)


@in_trio
async def test_a_failed_fetch_leaves_everything_as_it_was(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        made.faulty.fail("fetch", 1, SourceUnreachable("gone"))
        with pytest.raises(SourceUnreachable):
            await made.vfs.read(ino, 0, CHUNK)
        assert await made.read(ino) == CONTENT
        made.source.write(b"f", b"changed")
        other = await made.look("d/g")
        made.source.write(b"d/g", b"other")
        with pytest.raises(SourceChanged):
            await made.vfs.read(other, 0, 1)
        assert b"d/g" in made.hydrator.progress.problems
        assert await made.read(ino) == CONTENT, "what is local needs no source"


@in_trio
async def test_a_failed_listing_leaves_the_directory_unpopulated(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        directory = await made.look("d")
        made.faulty.fail("list_directory", 1, SourceUnreachable("gone"))
        with pytest.raises(SourceUnreachable):
            await made.vfs.lookup(directory, b"g")
        assert (await made.vfs.lookup(directory, b"g")).size == 1


@in_trio
async def test_removing_a_directory_looks_into_it_first(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        await made.look("d")
        for remove in (
            lambda: made.vfs.rmdir(ROOT, b"d"),
            lambda: made.vfs.rename(ROOT, b"empty", ROOT, b"d", 0),
        ):
            await _ignore(made.vfs.mkdir(ROOT, b"empty", 0o755, OWNER))
            with pytest.raises(OSError, match="not empty"):
                await remove()


async def _ignore(call: object) -> None:
    try:
        await call  # type: ignore[misc]
    except FileExistsError:
        pass


@in_trio
async def test_a_file_that_the_kernel_lets_go_of_during_a_write_stays_one(tmp_path: Path) -> None:
    """After a daemon's end the next one has not counted the kernel's references."""
    async with mounted(tmp_path / "s") as made:
        ino = await made.look("f")
        made.vfs.forget(ino, 1)
        go_on = made.faulty.hold("fetch")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.vfs.write, ino, 5, b"first")
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(made.vfs.write, ino, CHUNK + 5, b"second")
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
            await made.store.checkpoint(in_thread)
        expected = bytearray(CONTENT)
        expected[5:10], expected[CHUNK + 5 : CHUNK + 11] = b"first", b"second"
        assert await made.read(ino) == expected
        file = os.open(tmp_path / "s" / "data" / "f", os.O_RDONLY)
        try:
            assert os.pread(file, len(expected), 0) == expected
        finally:
            os.close(file)


@in_trio
async def test_one_walk_finds_whatever_the_kernel_kept_from_an_earlier_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that were made here, in new directories, and files of the source that were moved there."""
    async with mounted(tmp_path / "s") as made:
        await made.look("d/g")
        directory = await made.vfs.mkdir(ROOT, b"new", 0o755, OWNER)
        inos = [(await made.vfs.create(directory.ino, b"%d" % number, 0o644, OWNER)).ino for number in range(20)]
        inos.append(await made.look("f"))
        await made.vfs.rename(ROOT, b"f", directory.ino, b"moved", 0)
        removed = inos[0]
        await made.vfs.unlink(directory.ino, b"0")
        await made.vfs.rename(directory.ino, b"1", ROOT, b"renamed", 0)
    walked = []
    entries = Tree.entries

    def counted(tree: Tree, node: Node, *, read: bool = False) -> list[tuple[bytes, int, bool]]:
        walked.append(node.ino)
        return entries(tree, node, read=read)

    monkeypatch.setattr(Tree, "entries", counted)
    async with mounted(tmp_path / "s", taking_over=True) as made:
        for ino in inos * 3:
            await made.vfs.write(ino, 0, b"w" * CHUNK)
            assert bytes(await made.vfs.read(ino, 0, CHUNK)) == b"w" * CHUNK
        assert len(walked) == len(set(walked)) == 3
        for ino in inos[1:]:
            made.vfs.forget(ino, 1)
            assert ino not in made.store.tree.nodes
        made.vfs.forget(removed, 1)
        assert not os.listdir(tmp_path / "s" / "orphans")
        with pytest.raises(OSError, match="no node"):
            made.vfs.getattr(removed)


@in_trio
async def test_an_attribute_that_was_missing_is_seen_once_it_is_there(tmp_path: Path) -> None:
    """That there is none is remembered: the kernel asks before every write."""
    async with mounted(tmp_path) as made:
        ino = await made.look("f")
        assert not made.vfs.lacks_xattr(ino, b"security.capability")
        with pytest.raises(OSError, match="No data"):
            made.vfs.getxattr(ino, b"security.capability")
        assert made.vfs.lacks_xattr(ino, b"security.capability")
        made.vfs.setxattr(ino, b"security.capability", CAPABILITY)  # kept back: the file has absent bytes
        assert not made.vfs.lacks_xattr(ino, b"security.capability")
        assert made.vfs.getxattr(ino, b"security.capability") == CAPABILITY
        await made.read(ino)  # the last chunk gives it to the backing file
        assert not made.vfs.lacks_xattr(ino, b"security.capability")
        assert made.vfs.getxattr(ino, b"security.capability") == CAPABILITY
        made.vfs.removexattr(ino, b"security.capability")
        with pytest.raises(OSError, match="No data"):
            made.vfs.getxattr(ino, b"security.capability")


@in_trio
async def test_a_file_that_cannot_be_finished_keeps_no_other_of_its_job_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with mounted(tmp_path / "s") as made:
        made.source.add_file(b"able", CONTENT)
        made.source.set_xattr(b"able", b"security.capability", CAPABILITY)
        able, other = made.vfs.node(await made.look("able")), made.vfs.node(await made.look("f"))

        def full(*_: object, **__: object) -> None:
            raise OSError(28, "full")

        monkeypatch.setattr(os, "setxattr", full)
        with pytest.raises(OSError, match="full"):
            made.store.content.filled((able, list(range(6))), (other, list(range(6))))
        monkeypatch.undo()
        for node in (able, other):
            assert node.record is not None
            assert node.record.complete
        backing = os.stat(tmp_path / "s" / "data" / "f")
        assert backing.st_mtime_ns == made.source.node(b"f").time_ns
        made.store.content.settle(able)
        assert os.getxattr(tmp_path / "s" / "data" / "able", "security.capability") == CAPABILITY


@in_trio
async def test_of_a_job_all_is_present_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in memory alone would be forgotten by a killed daemon."""
    async with mounted(tmp_path / "s") as made:
        nodes = [made.vfs.node(await made.look(name)) for name in ("f", "d/g")]

        def full(*_: object) -> int:
            raise OSError(5, "failed")

        monkeypatch.setattr(os, "write", full)
        with pytest.raises(OSError, match="failed"):
            made.store.content.filled((nodes[0], [0, 1]), (nodes[1], [0]))
        monkeypatch.undo()
        for node in nodes:
            assert node.record is not None
            assert node.record.absent_bytes == node.record.version.size
