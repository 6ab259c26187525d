"""What of a source's hint is believed: nothing of it changes more than the order."""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.fakes.source import FaultySource, MemorySource
from tests.store.support import in_thread, in_trio
from voyfs import workingset
from voyfs.background import Background
from voyfs.carrier import Carrier, Wanted
from voyfs.core.errors import SourceRefused
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK
from voyfs.hydrator import Hydrator
from voyfs.pacing import Pacer
from voyfs.ports import BlockSource, FileDone, FileJob, InUse
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.workingset import WorkingSet

PARTS = (Extent(CHUNK, 2 * CHUNK), Extent(3 * CHUNK, 4 * CHUNK))


class Lane:
    """A bulk lane that only notes what it is to bring."""

    def __init__(self) -> None:
        self.jobs: list[tuple[bytes, tuple[Extent, ...]]] = []

    async def run(self, jobs: Sequence[FileJob]) -> list[FileDone]:
        await trio.lowlevel.checkpoint()
        self.jobs += [(job.source, job.extents) for job in jobs]
        return [FileDone(None, sum(extent.length for extent in job.extents)) for job in jobs]


def tree() -> MemorySource:
    source = MemorySource()
    source.add_directory(b"d")
    for name in (b"d/first", b"d/second", b"third"):
        source.add_file(name, bytes(4 * CHUNK))
    source.cached = {b"third": PARTS[:1], b"d/second": PARTS}  # the last used last
    return source


async def asked(path: Path, source: BlockSource) -> list[tuple[bytes, tuple[Extent, ...]]]:
    """What is wanted then, by its path on the source."""
    store = Store(path, "this boot", taking_over=False)
    try:
        wanted: deque[Wanted] = deque()
        await WorkingSet(store, source, Hydrator(store, source), wanted).ask(walking=True)
        records = [(store.records.get(ino), tuple(extents or ())) for ino, extents in wanted]
        return [(record.source, extents) for record, extents in records if record is not None]
    finally:
        store.close()


@in_trio
async def test_it_is_looked_up_as_it_comes(tmp_path: Path) -> None:
    assert await asked(tmp_path / "store", tree()) == [(b"d/second", PARTS), (b"third", PARTS[:1])]


@in_trio
async def test_what_is_no_longer_so_is_passed_over(tmp_path: Path) -> None:
    class Old(MemorySource):
        """Tells of versions and files that are none."""

        @asynccontextmanager
        async def working_set(self, path: bytes, *, still: bool = False) -> AsyncIterator[AsyncIterator[InUse]]:
            async def told() -> AsyncIterator[InUse]:
                version = self.node(b"here").version()
                yield InUse(b"missing", version, PARTS, True)
                yield InUse(b"here/below", version, PARTS, True)
                yield InUse(b"d", version, PARTS, True)
                yield InUse(b"d", self.node(b"d").version(), PARTS, True)
                yield InUse(b"other", version, PARTS, True)
                yield InUse(b"here", version, PARTS, True)

            yield told()

    source = Old()
    source.add_directory(b"d")
    source.add_file(b"here", bytes(4 * CHUNK))
    source.add_file(b"other", bytes(4 * CHUNK))
    assert await asked(tmp_path / "store", source) == [(b"here", PARTS)]


@in_trio
async def test_a_source_that_refuses_has_none(tmp_path: Path) -> None:
    faulty = FaultySource(tree())
    faulty.fail("working_set", 1, SourceRefused("another version"))
    assert await asked(tmp_path / "store", faulty) == []


def test_a_source_that_tells_without_end_is_not_heard_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workingset, "WORKING_SET_FILES", 1)

    @in_trio
    async def run() -> None:
        assert await asked(tmp_path / "store", tree()) == [(b"d/second", PARTS)]

    run()


@in_trio
async def test_what_is_in_use_goes_to_the_lane_first_and_nothing_waits_for_an_answer(tmp_path: Path) -> None:
    source = tree()
    faulty = FaultySource(source)
    store = Store(tmp_path / "store", "this boot", taking_over=False)
    try:
        lane, hydrator = Lane(), Hydrator(store, faulty)
        carrier = Carrier(store, lane, hydrator, Pacer(0))
        background = Background(store, faulty, hydrator, carrier, lambda: store.checkpoint(in_thread))
        await background.bring_working_set(60)
        assert lane.jobs == [(b"d/second", PARTS), (b"third", PARTS[:1])]
        faulty.hold("working_set")  # for ever
        await background.bring_working_set(0.01)
        await background.run()
        assert hydrator.progress.hydrated
        assert faulty.waiting["working_set"] == 0
        brought: dict[bytes, list[Extent]] = {}
        for path, extents in lane.jobs:
            brought.setdefault(path, []).extend(extents)
        assert {path: sum(extent.length for extent in extents) for path, extents in brought.items()} == dict.fromkeys(
            (b"d/first", b"d/second", b"third"), 4 * CHUNK
        )
    finally:
        store.close()


@in_trio
async def test_a_job_that_is_under_way_when_it_is_given_up_ends_and_counts(tmp_path: Path) -> None:
    class Slow(Lane):
        """Gives an answer when it is told to."""

        def __init__(self) -> None:
            super().__init__()
            self.go = trio.Event()

        async def run(self, jobs: Sequence[FileJob]) -> list[FileDone]:
            done = await super().run(jobs)
            await self.go.wait()
            return done

    source = tree()
    store = Store(tmp_path / "store", "this boot", taking_over=False)
    try:
        lane, hydrator = Slow(), Hydrator(store, source)
        carrier = Carrier(store, lane, hydrator, Pacer(0))
        background = Background(store, source, hydrator, carrier, lambda: store.checkpoint(in_thread))
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(background.bring_working_set, 60)
                while not lane.jobs:
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
                lane.go.set()
            assert carrier.running == 0
            before = len(lane.jobs)
            await background.run()
        assert hydrator.progress.hydrated
        again = [extent for path, extents in lane.jobs[before:] for extent in extents if path == b"d/second"]
        assert sum(extent.length for extent in again) == 2 * CHUNK, "what had come is not fetched again"
    finally:
        store.close()


def test_where_a_walk_comes_by_all_directories_few_are_listed_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workingset, "LISTED", 2)  # the root, and one more

    @in_trio
    async def run() -> None:
        source = MemorySource()
        for name in (b"a", b"b", b"c"):
            source.add_directory(name)
            source.add_file(name + b"/f", bytes(4 * CHUNK))
            source.cached[name + b"/f"] = PARTS
        store = Store(tmp_path / "store", "this boot", taking_over=False)
        try:
            hydrator, wanted = Hydrator(store, source), deque[Wanted]()

            def found() -> list[bytes]:
                records = [store.records.get(ino) for ino, _ in wanted]
                return [record.source for record in records if record is not None]

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    asking = WorkingSet(store, source, hydrator, wanted)
                    nursery.start_soon(partial(asking.ask, walking=True))
                    await trio.testing.wait_all_tasks_blocked()
                    assert found() == [b"c/f"]
                    b, _ = store.tree.child(store.tree.node(ROOT), b"b")
                    await hydrator.populate(b)  # as the walk does
                    await trio.testing.wait_all_tasks_blocked()
                    assert found() == [b"c/f", b"b/f"]
                    hydrator.progress.populated = True  # without "a", which could not be had
                    hydrator.wake()
            assert found() == [b"c/f", b"b/f"]
            assert source.calls["list_directory"] == 3
        finally:
            store.close()

    run()
