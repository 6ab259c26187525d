"""The background: populates the whole tree and brings every byte, until nothing is missing.

It walks the source's directories in one stream and has the absent chunks of what it finds carried
over the bulk lane (see `carrier`); what the source says that it uses goes first, whenever it says so.
A failure of the source or of the disk pauses it; a file that
cannot be had is named in the progress and passed over.
"""

import errno
import os
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

import trio

from voyfs.carrier import Carrier
from voyfs.core.entry import Entry
from voyfs.core.errors import SourceError, SourceUnreachable, VoyfsError
from voyfs.core.extents import Extent
from voyfs.core.limits import BULK_JOB_FILES
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger, load
from voyfs.ports import BlockSource
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.workingset import WorkingSet

log = get_logger(__name__)

# Directories listed at once to find files that go first.
FIRST_LOOKUPS = 8


class Background:
    def __init__(
        self,
        store: Store,
        source: BlockSource,
        hydrator: Hydrator,
        carrier: Carrier,
        checkpoint: Callable[[], Awaitable[None]],
    ) -> None:
        """`checkpoint` makes what the records say durable and visible to their queries."""
        self._store = store
        self._source = source
        self._hydrator = hydrator
        self.carrier = carrier
        self._progress = hydrator.progress
        self._checkpoint = checkpoint
        self._working_set = WorkingSet(store, source, hydrator, carrier.first)
        self._nothing_first = trio.Event()
        self._nothing_first.set()

    async def run(self) -> None:
        """Populates and fetches everything that can be had, then returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._populate_all)
            await self._nothing_first.wait()
            nursery.start_soon(partial(self._working_set.ask, walking=True))
            await self._hydrate_all()
            nursery.cancel_scope.cancel()  # a source that says nothing of its working set, now that all is here
        await self._write_down()
        totals = self._store.records.totals
        self._progress.ended = True
        self._progress.hydrated = totals.absent_bytes == 0 and not self._progress.problems
        self._hydrator.wake()
        await trio.to_thread.run_sync(load)  # who waited for this is told meanwhile
        log.info("hydration ends", files=totals.files, bytes=totals.bytes, missing=totals.absent_bytes)

    async def bring_names(self, seconds: float) -> None:
        """Populates as many directories as it can in this time."""
        with trio.move_on_after(seconds):
            try:
                await self._hydrator.attach()
                await self._walk()
            except (VoyfsError, OSError) as error:
                log.info("not all names are known", why=str(error))

    async def bring_working_set(self, seconds: float, *, still: bool = False) -> None:
        """Fetches what the source says that it uses, as much as it can in this time; names only as far as needed.

        With `still` only what nobody can write into, or it could change without being of another version.
        """
        asked = trio.Event()
        first = self.carrier.first

        async def ask() -> None:
            await self._working_set.ask(walking=False, still=still)
            asked.set()
            self._hydrator.wake()

        async with trio.open_nursery() as jobs:
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as asking:
                    asking.start_soon(ask)
                    while first or not asked.is_set():
                        changed = self._hydrator.changed
                        if first:
                            await self.carrier.carry(None, jobs)
                        else:
                            await changed.wait()
            first.clear()

    # -- names ------------------------------------------------------------------------------

    async def _populate_all(self) -> None:
        # what an earlier daemon brought to its end needs no source, which may be gone for good
        self._progress.populated = not self._store.records.directories(populated=False)
        while not self._progress.populated:
            try:
                await self._hydrator.attach()
                await self._walk()
                await self._populate_rest()
            except (VoyfsError, OSError) as error:
                await self.carrier.pause(error)
            else:
                self._progress.populated = True
                self._progress.paused = ""
        self._hydrator.wake()

    async def _walk(self) -> None:
        store, hydrator = self._store, self._hydrator
        async with self._source.walk(b"") as listings:
            async for listing in listings:
                record = store.records.of_directory(listing.path)
                if record is None or record.populated or listing.problem:
                    continue
                if record.version.inode != listing.inode:
                    continue
                await hydrator.give_way()
                node = store.tree.node(record.ino)
                if not store.usable(node) and node.ino not in hydrator.populating:
                    await hydrator.fill(node, _ready(listing.entries), behind=True)

    async def _populate_rest(self) -> None:
        """Directories that the walk missed: moved on the source meanwhile, or unreadable."""
        while rest := self._unpopulated():
            for ino in rest:
                node = self._store.tree.node(ino)
                assert node.record is not None
                try:
                    await self._hydrator.populate(node)
                except SourceUnreachable:
                    raise
                except SourceError as error:
                    self._hydrator.problem(node.record.source, error)

    def _unpopulated(self) -> list[int]:
        records = self._store.records
        left = [records.get(ino) for ino in records.directories(populated=False)]
        return [r.ino for r in left if r and r.source not in self._progress.problems]

    # -- bytes ------------------------------------------------------------------------------

    async def _hydrate_all(self) -> None:
        todo = self._hydrator.fresh
        todo.clear()
        todo += self._leftover()
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._hydrator.changed
                await self.carrier.carry(None, nursery)
                if todo:
                    inos = [todo.popleft() for _ in range(min(len(todo), BULK_JOB_FILES))]
                    for plan in self.carrier.plans([(ino, None) for ino in inos]):
                        await self.carrier.carry(plan, nursery)
                elif self.carrier.running or not self._progress.populated:
                    await changed.wait()
                else:
                    await self._write_down()
                    todo += self._leftover()
                    if not todo:
                        return

    def bring_first(self, ranges: Sequence[tuple[bytes, Extent]], nursery: trio.Nursery) -> None:
        """Brings these ranges of files, named by their paths, in this order and from now on before anything else.

        Also where nothing else is brought. What is not there, or cannot be had, is passed over.
        """
        if not self._progress.first:
            self._nothing_first = trio.Event()
        self._progress.first += len(ranges)
        nursery.start_soon(self._bring_first, ranges)

    async def _bring_first(self, ranges: Sequence[tuple[bytes, Extent]]) -> None:
        try:
            async with trio.open_nursery() as nursery:
                for start in range(0, len(ranges), BULK_JOB_FILES):
                    batch = ranges[start : start + BULK_JOB_FILES]
                    inos = await self._inos(dict.fromkeys(path for path, _ in batch))
                    wanted = [(inos[path], (extent,)) for path, extent in batch if path in inos]
                    for plan in self.carrier.plans(wanted):
                        await self.carrier.carry(plan, nursery)
        finally:
            self._progress.first -= len(ranges)
            if not self._progress.first:
                self._nothing_first.set()
            self._hydrator.wake()

    async def _inos(self, paths: Iterable[bytes]) -> dict[bytes, int]:
        """Inodes of those of `paths` that are there."""
        found: dict[bytes, int] = {}
        limit = trio.CapacityLimiter(FIRST_LOOKUPS)

        async def find(path: bytes) -> None:
            async with limit:
                try:
                    found[path] = await self._ino(path)
                except (VoyfsError, OSError) as error:
                    log.debug("not brought first", path=os.fsdecode(path), why=str(error))

        async with trio.open_nursery() as nursery:
            for path in paths:
                nursery.start_soon(find, path)
        return found

    async def _ino(self, path: bytes) -> int:
        tree = self._store.tree
        node = tree.node(ROOT)
        for name in path.split(b"/"):
            if not node.is_directory:
                raise NotADirectoryError(errno.ENOTDIR, "not a directory")
            await self._hydrator.populate(node)
            node, _ = tree.child(node, name)
        self._store.names.release(node)  # or the memory would hold all that a long list names
        return node.ino

    def _leftover(self) -> deque[int]:
        """Files that lack bytes and can be had, as the last checkpoint knows them."""
        records = self._store.records
        found: deque[int] = deque()
        after = -1
        while inos := records.incomplete(after, BULK_JOB_FILES):
            after = inos[-1]
            for ino in inos:
                record = records.get(ino)
                if record is None or self._store.names.doomed(ino):
                    continue
                if not record.complete and record.source not in self._progress.problems:
                    found.append(ino)
                elif ino not in self._store.tree.nodes:
                    records.evict(ino)
        return found

    async def _write_down(self) -> None:
        """A checkpoint, as soon as the disk takes it."""
        while True:
            try:
                await self._checkpoint()
                return
            except OSError as error:
                await self.carrier.pause(error)


async def _ready(entries: Sequence[Entry]) -> Sequence[Entry]:
    return entries
