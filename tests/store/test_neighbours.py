"""Small files brought along with others of their directory, on a source in memory."""

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.source import FaultySource, MemorySource
from tests.store.support import in_trio
from voyfs.core.errors import SourceChanged, SourceUnreadable
from voyfs.core.limits import CHUNK
from voyfs.hydrator import Hydrator
from voyfs.neighbours import Neighbours
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.vfs import Vfs, cookie

COUNT = 100
CONTENTS = {b"f%03d" % number: b"%d" % number * (1 + number * 7 % 500) for number in range(COUNT)}


class Mounted:
    def __init__(self, store: Store, source: MemorySource, nursery: trio.Nursery) -> None:
        self.store = store
        self.source = source
        self.faulty = FaultySource(source)
        self.hydrator = Hydrator(store, self.faulty)
        self.hydrator.nursery = nursery
        self.hydrator.neighbours = Neighbours(store, self.faulty, self.hydrator, cookie)
        self.progress = self.hydrator.progress
        self.vfs = Vfs(store, self.hydrator)

    async def look(self, name: bytes) -> int:
        directory = (await self.vfs.lookup(ROOT, b"d")).ino
        return (await self.vfs.lookup(directory, name)).ino

    async def read(self, name: bytes) -> bytes:
        ino = await self.look(name)
        content = bytes(await self.vfs.read(ino, 0, self.vfs.getattr(ino).size + 1))
        self.vfs.forget(ino, 1)
        return content

    async def armed(self) -> None:
        """Two files read, so that the next ones are on their way."""
        for name in (b"f000", b"f001"):
            assert await self.read(name) == CONTENTS[name]


@asynccontextmanager
async def mounted(path: Path) -> AsyncIterator[Mounted]:
    source = MemorySource()
    source.add_directory(b"d")
    for name, content in CONTENTS.items():
        source.add_file(b"d/" + name, content)
    source.add_file(b"d/large", bytes(5 * CHUNK))
    source.add_file(b"d/none", b"")
    source.add_directory(b"d/below")
    store = Store(path, "this boot", taking_over=False)
    try:
        async with trio.open_nursery() as nursery:
            made = Mounted(store, source, nursery)
            await made.hydrator.attach()
            yield made
    finally:
        store.close()


@pytest.mark.parametrize("order", [None, cookie], ids=["names", "listing"])
@in_trio
async def test_who_reads_a_directory_asks_for_few_of_its_files(
    order: Callable[[bytes], int] | None, tmp_path: Path
) -> None:
    async with mounted(tmp_path / "s") as made:
        for name in sorted(CONTENTS, key=order):
            assert await made.read(name) == CONTENTS[name]
            await trio.testing.wait_all_tasks_blocked()
        assert made.progress.demand_fetches <= 3
        assert made.progress.fetched_bytes == sum(map(len, CONTENTS.values()))  # nothing twice, and nothing else
        assert not made.hydrator.neighbours.unread  # type: ignore[union-attr]
        assert len(made.store.tree.nodes) < 10  # nobody holds what the kernel forgot


@in_trio
async def test_one_file_alone_brings_no_other(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        assert await made.read(b"f050") == CONTENTS[b"f050"]
        await trio.testing.wait_all_tasks_blocked()
        assert made.progress.fetched_bytes == len(CONTENTS[b"f050"])


@in_trio
async def test_what_is_on_its_way_is_waited_for_and_not_asked_for_again(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        go_on = made.faulty.hold("fetch_files")
        await made.armed()
        found = []

        async def read() -> None:
            found.append(await made.read(b"f005"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            assert (found, made.faulty.waiting["fetch_files"]) == ([], 1)
            go_on.set()
        assert found == [CONTENTS[b"f005"]]
        assert made.progress.demand_fetches == 2


@in_trio
async def test_a_change_of_the_container_is_not_overwritten_by_what_comes(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        go_on = made.faulty.hold("fetch_files")
        await made.armed()
        await trio.testing.wait_all_tasks_blocked()
        directory = (await made.vfs.lookup(ROOT, b"d")).ino
        written, cut = await made.look(b"f002"), await made.look(b"f003")
        with trio.fail_after(5):  # neither waits for the source
            size = made.vfs.getattr(written).size
            await made.vfs.write(written, 0, b"w" * size)
            await made.vfs.truncate(cut, 0)
            await made.vfs.unlink(directory, b"f004")
            await made.vfs.rename(directory, b"f005", ROOT, b"moved", 0)
        go_on.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await made.read(b"f002") == b"w" * size
        assert await made.read(b"f003") == b""
        assert await made.read(b"f006") == CONTENTS[b"f006"]
        moved = (await made.vfs.lookup(ROOT, b"moved")).ino
        assert bytes(await made.vfs.read(moved, 0, 10_000)) == CONTENTS[b"f005"]


@in_trio
async def test_a_batch_that_fails_fails_nobody_else(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        for number in range(1, 4):
            made.faulty.fail("fetch_files", number, SourceUnreadable("a disk of the source"))
        for name, content in CONTENTS.items():
            assert await made.read(name) == content
        assert not made.progress.problems


@in_trio
async def test_a_file_that_changed_on_the_source_fails_alone(tmp_path: Path) -> None:
    async with mounted(tmp_path / "s") as made:
        await made.look(b"f000")  # all of the directory is known from here on
        made.source.write(b"d/f004", b"changed")
        for name, content in CONTENTS.items():
            if name == b"f004":
                with pytest.raises(SourceChanged):
                    await made.read(name)
            else:
                assert await made.read(name) == content
        assert list(made.progress.problems) == [b"d/f004"]


@in_trio
async def test_a_full_disk_is_told_to_who_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with mounted(tmp_path / "s") as made:
        await made.armed()
        await trio.testing.wait_all_tasks_blocked()

        def full(*_: object) -> int:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(OSError, match="No space"):
                await made.read(b"f050")
            await trio.testing.wait_all_tasks_blocked()
        for name, content in CONTENTS.items():
            assert await made.read(name) == content
