"""The background: populates the whole tree and brings every byte, until nothing is missing.

It walks the source's directories in one stream and sends the absent chunks of what it finds to
the bulk lane in jobs of bounded size, a bounded number at a time. A failure of the source or of
the disk pauses it; a file that cannot be had is named in the progress and passed over.
"""

from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence

import trio

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceError, SourceMalformed, SourceUnreachable, StoreError, VoyfsError
from voyfs.core.extents import coalesce
from voyfs.core.limits import BULK_JOB_BYTES, BULK_JOB_FILES, BULK_JOBS
from voyfs.hydrator import Flight, Hydrator
from voyfs.logs import get_logger
from voyfs.pacing import Pacer
from voyfs.ports import BlockSource, BulkLane, FileDone, FileJob
from voyfs.store.store import Store
from voyfs.store.tree import Node

log = get_logger(__name__)

# Pause after a failure of the source or the disk before the next try.
RETRY_SECONDS = 1.0

# How often a file is asked for again whose answer was not fit to be read.
MALFORMED_TRIES = 8

# Inodes and absent chunks. Not nodes: those may go, and come again as others, before it is carried out.
_Plan = list[tuple[int, list[int]]]
_Claimed = list[tuple[Node, Flight, FileJob]]


class Background:
    def __init__(
        self,
        store: Store,
        source: BlockSource,
        bulk: BulkLane,
        hydrator: Hydrator,
        checkpoint: Callable[[], Awaitable[None]],
        pacer: Pacer,
    ) -> None:
        """`checkpoint` makes what the records say durable and visible to their queries."""
        self.pacer = pacer
        self.running = 0  # jobs handed to the lane, not yet landed
        self._store = store
        self._source = source
        self._bulk = bulk
        self._hydrator = hydrator
        self._progress = hydrator.progress
        self._checkpoint = checkpoint
        self._doubts: Counter[bytes] = Counter()

    async def run(self) -> None:
        """Populates and fetches everything that can be had, then returns."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._populate_all)
            await self._hydrate_all()
        await self._write_down()
        totals = self._store.records.totals
        self._progress.ended = True
        self._progress.hydrated = totals.absent_bytes == 0 and not self._progress.problems
        self._hydrator.wake()
        log.info("hydration ends", files=totals.files, bytes=totals.bytes, missing=totals.absent_bytes)

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
                await self._pause(error)
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
                    await hydrator.fill(node, _ready(listing.entries))

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
        slots = trio.Semaphore(BULK_JOBS)
        todo = self._hydrator.fresh
        todo.clear()
        todo += self._leftover()
        async with trio.open_nursery() as nursery:
            while True:
                changed = self._hydrator.changed
                if todo:
                    inos = [todo.popleft() for _ in range(min(len(todo), BULK_JOB_FILES))]
                    for plan in self._plan(inos):
                        await slots.acquire()
                        await self.pacer.wait()
                        await self._hydrator.give_way()
                        claimed = self._claim(plan)
                        self.pacer.spend(_size(claimed))
                        self.running += 1
                        nursery.start_soon(self._run, claimed, slots)
                elif self.running or not self._progress.populated:
                    await changed.wait()
                else:
                    await self._write_down()
                    todo += self._leftover()
                    if not todo:
                        return

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

    def _plan(self, inos: Sequence[int]) -> Iterator[_Plan]:
        """Absent chunks of the files `inos`, in groups of bounded size.

        The groups are made one by one while earlier ones land, so that a huge file costs no
        memory; what a group names is checked again when it is claimed.
        """
        plan: _Plan = []
        size = 0
        for ino in inos:
            record = self._store.records.get(ino)
            if record is None or record.presence is None or record.complete or self._store.names.doomed(ino):
                continue
            chunks: list[int] = []
            for index in record.presence.absent():
                length = record.presence.extent(index).length
                if size + length > BULK_JOB_BYTES:
                    yield [*plan, (ino, chunks)] if chunks else plan
                    plan, chunks, size = [], [], 0
                chunks.append(index)
                size += length
            if chunks:
                plan.append((ino, chunks))
        if plan:
            yield plan

    def _claim(self, plan: _Plan) -> _Claimed:
        """Claims what of the plan is still absent and not under way."""
        claimed = []
        for ino, chunks in plan:
            record = self._store.records.get(ino)
            if record is None or record.presence is None or self._store.names.doomed(ino):
                continue
            presence = record.presence
            taken = self._hydrator.claimed(ino)
            free = [index for index in presence.missing(chunks) if index not in taken]
            if not free:
                continue
            try:
                node = self._store.tree.node(ino)
                path = self._store.tree.path(node)
            except OSError as error:
                self._hydrator.problem(record.source, StoreError(f"its file cannot be found: {error.strerror}"))
                continue
            free = presence.missing(free)  # finding it may have shown that it is shorter
            if not free:
                continue
            extents = coalesce(free, presence.chunk, presence.limit, BULK_JOB_BYTES)
            job = FileJob(path, ino, record.source, record.version, tuple(extents))
            claimed.append((node, self._hydrator.claim(node, free, in_hand=False), job))
        return claimed

    async def _run(self, claimed: _Claimed, slots: trio.Semaphore) -> None:
        failure: Exception | None = None
        try:
            await self._hydrator.attach()
            # Shielded: bytes may land until the lane says that it is done with them.
            with trio.CancelScope(shield=True):
                outcomes = await self._bulk.run([job for _, _, job in claimed])
            self.pacer.spend(sum(outcome.data_bytes for outcome in outcomes) - _size(claimed))
            for (node, flight, job), outcome in zip(claimed, outcomes, strict=True):
                failure = self._landed(node, flight, job, outcome) or failure
        except (VoyfsError, OSError) as error:
            failure = error
        finally:
            for node, flight, _ in claimed:
                self._hydrator.land(node, flight)
        if failure is None:
            self._progress.paused = ""
        else:
            await self._pause(failure)
        self.running -= 1
        slots.release()
        self._hydrator.wake()

    def _landed(self, node: Node, flight: Flight, job: FileJob, outcome: FileDone) -> Exception | None:
        """Takes note of one file's outcome; gives the error if all had better wait a while."""
        self._progress.background_bytes += outcome.data_bytes
        self._progress.seed_bytes += outcome.seed_bytes
        error = outcome.error
        if error is None:
            self._store.content.filled(node, sorted(flight.chunks))
        elif isinstance(error, FileNotFoundError):
            pass  # renamed or removed meanwhile; the next round knows its place
        elif isinstance(error, SourceUnreachable | OSError):
            return error
        elif isinstance(error, SourceMalformed) and self._doubts[job.source] < MALFORMED_TRIES:
            self._doubts[job.source] += 1  # an answer damaged on its way spoils all that was asked for with it
            return error
        else:
            self._hydrator.problem(job.source, error)
        return None

    async def _write_down(self) -> None:
        """A checkpoint, as soon as the disk takes it."""
        while True:
            try:
                await self._checkpoint()
                return
            except OSError as error:
                await self._pause(error)

    async def _pause(self, error: Exception) -> None:
        what = str(error)
        if self._progress.paused != what:
            log.warning("hydration pauses", why=what)
            self._progress.paused = what
        await trio.sleep(RETRY_SECONDS)


def _size(claimed: _Claimed) -> int:
    return sum(extent.length for _, _, job in claimed for extent in job.extents)


async def _ready(entries: Sequence[Entry]) -> Sequence[Entry]:
    return entries
