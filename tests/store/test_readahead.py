"""What is brought ahead of a reader: by calls of the daemon's own, or by a lane once that is worth its start."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.source import FaultySource, MemorySource
from tests.store.support import in_trio
from voyfs import readahead
from voyfs.core.errors import SourceUnreachable
from voyfs.core.limits import CHUNK
from voyfs.hydrator import Hydrator
from voyfs.ports import FileDone, FileJob
from voyfs.readahead import ReadAhead
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.vfs import Vfs

CHUNKS = 192
CONTENT = bytes(index // 512 % 251 for index in range(CHUNKS * CHUNK))


class Lane:
    """Writes into the backing files what the source has, when it may."""

    def __init__(self, source: MemorySource, store: Path) -> None:
        self._source = source
        self._store = store
        self.starts = True
        self.begun = 0
        self.rested = trio.Event()
        self.brought = 0  # bytes
        self.error: Exception | None = None
        self.may = trio.Event()
        self.may.set()

    async def begin(self) -> bool:
        await trio.lowlevel.checkpoint()
        self.begun += 1
        return self.starts

    async def rest(self) -> None:
        await trio.lowlevel.checkpoint()
        self.rested.set()

    async def run(self, jobs: Sequence[FileJob]) -> list[FileDone]:
        await self.may.wait()
        (job,) = jobs
        if self.error is not None:
            return [FileDone(self.error, 0)]
        size = 0
        for piece in await self._source.fetch(job.source, job.version, job.extents):
            assert piece.data is not None
            with open(self._store / os.fsdecode(job.local), "r+b") as file:
                os.pwrite(file.fileno(), piece.data, piece.start)
            size += piece.length
        self.brought += size
        return [FileDone(None, size)]


class Reading:
    """Who reads one long file."""

    def __init__(self, path: Path) -> None:
        self.source = MemorySource()
        self.source.add_file(b"long", CONTENT)
        faulty = FaultySource(self.source)
        self.store = Store(path, "this boot", taking_over=False)
        self.hydrator = Hydrator(self.store, faulty)
        self.vfs = Vfs(self.store, self.hydrator)
        self.lane = Lane(self.source, path)
        self.ahead = ReadAhead(self.store, faulty, self.hydrator, self.lane)
        self.hydrator.next = self.ahead
        self.ino = 0

    async def read(self, *chunks: int) -> None:
        """And compare; all that is under way ends after each."""
        for index in chunks:
            assert bytes(await self.vfs.read(self.ino, index * CHUNK, CHUNK)) == CONTENT[index * CHUNK :][:CHUNK]
            await trio.testing.wait_all_tasks_blocked()

    @property
    def presence(self) -> list[int]:
        """What is absent."""
        record = self.vfs.node(self.ino).record
        assert record is not None
        assert record.presence is not None
        return list(record.presence.absent())


@asynccontextmanager
async def reading(path: Path) -> AsyncIterator[Reading]:
    made = Reading(path)
    try:
        async with trio.open_nursery() as nursery:
            made.hydrator.nursery = nursery
            await made.hydrator.attach()
            made.ino = (await made.vfs.lookup(ROOT, b"long")).ino
            yield made
            nursery.cancel_scope.cancel()
    finally:
        made.store.close()


@in_trio
async def test_a_sequential_reader_finds_fetched_what_it_comes_to(tmp_path: Path) -> None:
    """It is brought in several fetches at once, and nothing twice."""
    async with reading(tmp_path / "s") as made:
        await made.read(*range(8))  # in order, so that the window opens
        waits = made.hydrator.progress.demand_fetches
        await made.read(*range(8, CHUNKS))
        assert made.hydrator.progress.demand_fetches - waits <= 4
        assert made.hydrator.progress.fetched_bytes == len(CONTENT)
        assert not made.lane.begun, "a file of this size is not worth it"


@in_trio
async def test_of_who_reads_much_a_lane_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "LANE_BYTES", CHUNK)
    async with reading(tmp_path / "s") as made:
        await made.read(*range(CHUNKS))
        assert made.lane.begun == 1
        assert made.lane.brought > len(CONTENT) // 2
        assert made.hydrator.progress.fetched_bytes == len(CONTENT)
        assert made.presence == []


@in_trio
async def test_what_fails_ahead_fails_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to it asks for it, and has it brought by the daemon until the lane is ready again."""
    monkeypatch.setattr(readahead, "LANE_BYTES", CHUNK)
    for number, error in enumerate((OSError(28, "full"), SourceUnreachable("gone"), None)):
        async with reading(tmp_path / str(number)) as made:
            made.lane.error = error
            made.lane.starts = error is not None
            await made.read(*range(CHUNKS))
            assert made.presence == []
            assert made.lane.brought == 0
            assert made.hydrator.progress.problems == {}


@in_trio
async def test_a_write_waits_for_what_the_lane_brings_and_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readahead, "LANE_BYTES", CHUNK)
    async with reading(tmp_path / "s") as made:
        await made.read(*range(16))
        made.lane.may = trio.Event()
        await made.read(*range(16, 28))
        (under_way, *_) = [index for index in made.presence if made.hydrator.flying(made.vfs.node(made.ino), [index])]
        written = trio.Event()

        async def write() -> None:
            await made.vfs.write(made.ino, under_way * CHUNK, b"w" * CHUNK)
            written.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert not written.is_set()
            made.lane.may.set()
        assert bytes(await made.vfs.read(made.ino, under_way * CHUNK, CHUNK)) == b"w" * CHUNK


@in_trio
async def test_an_idle_lane_rests_and_begins_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readahead, "LANE_BYTES", CHUNK)
    monkeypatch.setattr(readahead, "LANE_SECONDS", 0.001)
    async with reading(tmp_path / "s") as made:
        await made.read(*range(20))
        await made.lane.rested.wait()
        await made.read(*range(20, 60))
        assert made.lane.begun > 1
