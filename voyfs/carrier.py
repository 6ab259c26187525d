"""Carries absent chunks of files over the bulk lane: in jobs of bounded size, a bounded number at a time.

What is to come, and in which order, is the background's to say (see `background`).
"""

import errno
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence

import trio

from voyfs.core.errors import SourceMalformed, SourceUnreachable, StoreError, VoyfsError
from voyfs.core.extents import Extent, chunks_touched, coalesce
from voyfs.core.limits import BULK_JOB_BYTES, BULK_JOB_FILES, BULK_JOBS, MIB
from voyfs.core.presence import Presence
from voyfs.hydrator import Flight, Hydrator
from voyfs.logs import get_logger
from voyfs.pacing import Pacer
from voyfs.ports import BulkLane, FileDone, FileJob
from voyfs.store.store import Store
from voyfs.store.tree import Node

log = get_logger(__name__)

# Pause after a failure of the source or the disk before the next try.
RETRY_SECONDS = 1.0

# Files that land at once.
LAND_SLICE = 32

# What the background leaves free.
LEFT_BYTES = 1 * MIB

# How often a file is asked for again whose answer was not fit to be read.
MALFORMED_TRIES = 8

# Inodes and absent chunks. Not nodes: those may go, and come again as others, before it is carried out.
Plan = list[tuple[int, list[int]]]
Wanted = tuple[int, Sequence[Extent] | None]  # an inode, and what of it; None: all
_Claimed = list[tuple[Node, Flight, FileJob]]


class Carrier:
    def __init__(self, store: Store, bulk: BulkLane, hydrator: Hydrator, pacer: Pacer) -> None:
        self.pacer = pacer
        self.running = 0  # jobs handed to the lane, not yet landed
        self.first: deque[Wanted] = deque()  # to be carried before everything else, in this order
        self._ahead: Iterator[Plan] = iter(())
        self._store = store
        self._bulk = bulk
        self._hydrator = hydrator
        self._progress = hydrator.progress
        self._slots = trio.Semaphore(BULK_JOBS)
        self._flying = 0  # bytes of the jobs under way
        self._doubts: Counter[bytes] = Counter()

    def plans(self, wanted: Sequence[Wanted]) -> Iterator[Plan]:
        """What is absent of these files, in groups of bounded size.

        The groups are made one by one while earlier ones land, so that a huge file costs no
        memory; what a group names is checked again when it is claimed.
        """
        plan: Plan = []
        size = 0
        self._store.records.get_many(ino for ino, _ in wanted)
        for ino, extents in wanted:
            record = self._store.records.get(ino)
            if record is None or record.presence is None or record.complete or self._store.names.doomed(ino):
                continue
            chunks: list[int] = []
            for index in _absent(record.presence, extents):
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

    async def carry(self, plan: Plan | None, nursery: trio.Nursery) -> None:
        """Begins to carry all that is to come first, then `plan`, each when its turn has come.

        What then fails, the progress tells.
        """
        ahead = self._next_ahead()
        while ahead is not None or plan is not None:
            await self._slots.acquire()
            try:
                await self.pacer.wait()
                await self._hydrator.give_way()
            except BaseException:
                self._slots.release()
                raise
            ahead = ahead or self._next_ahead()  # known only now
            began = trio.current_time()
            if ahead is not None:
                claimed, ahead = self._claim(ahead), self._next_ahead()
            elif plan is not None:
                claimed, plan = self._claim(plan), None
            self.pacer.spend(_size(claimed))
            self.running += 1
            nursery.start_soon(self._run, claimed)
            await self._hydrator.turns.give(trio.current_time() - began)

    def _next_ahead(self) -> Plan | None:
        first = self.first
        while (plan := next(self._ahead, None)) is None and first:
            self._ahead = self.plans([first.popleft() for _ in range(min(len(first), BULK_JOB_FILES))])
        return plan

    def _claim(self, plan: Plan) -> _Claimed:
        """Claims what of the plan is still absent and not under way."""
        claimed = []
        for ino, chunks in plan:
            record = self._store.records.get(ino)
            if record is None or record.presence is None or record.complete or self._store.names.doomed(ino):
                continue
            try:
                node = self._store.tree.node(ino)  # this may show that it is shorter
                path = self._store.tree.path(node)
            except OSError as error:
                self._hydrator.problem(record.source, StoreError(f"its file cannot be found: {error.strerror}"))
                continue
            presence = record.presence
            taken = self._hydrator.claimed(ino)
            free = [index for index in presence.missing(chunks) if index not in taken]
            if not free:
                self._store.names.release(node)
                continue
            extents = coalesce(free, presence.chunk, presence.limit, BULK_JOB_BYTES)
            job = FileJob(path, ino, record.source, record.version, tuple(extents))
            claimed.append((node, self._hydrator.claim(node, free, in_hand=False), job))
        return claimed

    async def _run(self, claimed: _Claimed) -> None:
        try:
            failure = await self._carry_out(claimed)
            if failure is None:
                self._progress.paused = ""
            else:
                await self.pause(failure)
        finally:
            self.running -= 1
            self._slots.release()
            self._hydrator.wake()

    async def _carry_out(self, claimed: _Claimed) -> Exception | None:
        """Gives what all had better wait a while for."""
        failure: Exception | None = None
        size = _size(claimed)
        self._flying += size
        try:
            self._require_room()
            await self._hydrator.attach()
            # Shielded: bytes may land until the lane says that it is done with them, and are then to be known.
            with trio.CancelScope(shield=True):
                outcomes = await self._bulk.run([job for _, _, job in claimed])
                self.pacer.spend(sum(outcome.data_bytes - outcome.spared_bytes for outcome in outcomes) - size)
                for start in range(0, len(claimed), LAND_SLICE):
                    began = trio.current_time()
                    part = slice(start, start + LAND_SLICE)
                    failure = self._land(claimed[part], outcomes[part]) or failure
                    await self._hydrator.turns.give(trio.current_time() - began)
        except (VoyfsError, OSError) as error:
            failure = error
        finally:
            self._flying -= size
            for node, flight, _ in claimed:
                if not flight.landed.is_set():
                    self._hydrator.land(node, flight)
        return failure

    def _land(self, claimed: _Claimed, outcomes: Sequence[FileDone]) -> Exception | None:
        """Notes what came, and lets go of these claims; gives what all had better wait a while for."""
        failure: Exception | None = None
        landed = []
        for (node, flight, job), outcome in zip(claimed, outcomes, strict=True):
            self._progress.background_bytes += outcome.data_bytes
            self._progress.seed_bytes += outcome.seed_bytes
            self._progress.spared_bytes += outcome.spared_bytes
            if outcome.error is None:
                landed.append((node, sorted(flight.chunks)))
            else:
                failure = self._failed(job, outcome.error) or failure
        self._store.content.filled(*landed)
        for node, flight, _ in claimed:
            self._hydrator.land(node, flight)
        return failure

    def _require_room(self) -> None:
        """The last of a disk is for whoever uses the mount, and for the records of it. Raises OSError."""
        space = self._store.statvfs()
        if space.f_bavail * space.f_frsize < self._flying + LEFT_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _failed(self, job: FileJob, error: Exception) -> Exception | None:
        """Takes note of why a file did not come; gives the error if all had better wait a while."""
        if isinstance(error, FileNotFoundError):
            pass  # renamed or removed meanwhile; the next round knows its place
        elif isinstance(error, SourceUnreachable | OSError):
            return error
        elif isinstance(error, SourceMalformed) and self._doubts[job.source] < MALFORMED_TRIES:
            self._doubts[job.source] += 1  # an answer damaged on its way spoils all that was asked for with it
            return error
        else:
            self._hydrator.problem(job.source, error)
        return None

    async def pause(self, error: Exception) -> None:
        """Something is in the way that may go: says so, and waits a while."""
        what = str(error)
        if self._progress.paused != what:
            log.warning("hydration pauses", why=what)
            self._progress.paused = what
        await trio.sleep(RETRY_SECONDS)


def _absent(presence: Presence, extents: Sequence[Extent] | None) -> Iterator[int]:
    """Absent chunks, ascending."""
    if extents is None:
        yield from presence.absent()
        return
    after = 0  # chunks of the source's may be smaller
    for extent in extents:
        touched = chunks_touched(extent.clip(presence.limit), presence.chunk)
        yield from presence.missing(range(max(touched.start, after), touched.stop))
        after = max(touched.stop, after)


def _size(claimed: _Claimed) -> int:
    return sum(extent.length for _, _, job in claimed for extent in job.extents)
