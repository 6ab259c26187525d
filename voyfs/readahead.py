"""Brings what the reader of a large file comes to next.

How far ahead is `core.prefetch`'s to say. The daemon fetches it itself, in calls of their own, until somebody reads so
much that a process is worth its start: from then on that receives the bytes, checks and writes them, as for the
background, and the daemon has its time for answering the kernel. It is not the background's process, which gives way to
everybody. A failure is told to nobody: whoever needs the bytes asks again, and hears of it.
"""

from collections import OrderedDict
from typing import Protocol

import trio

from voyfs.core.errors import SourceUnreachable, VoyfsError
from voyfs.core.extents import Extent, chunks_touched, coalesce
from voyfs.core.limits import AHEAD_BYTES, AHEAD_FETCH_BYTES, AHEAD_FETCHES, BULK_JOB_BYTES
from voyfs.core.prefetch import Window
from voyfs.core.presence import Presence
from voyfs.hydrator import Flight, Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource, BulkLane, FileJob
from voyfs.store.store import Store
from voyfs.store.tree import Node

log = get_logger(__name__)

# Files read at the same time, whose readahead is remembered.
WINDOWS = 256

# What must be missing of a file that is read in order for a process to be started: the daemon itself fetches about as
# much in the time that one takes to start.
LANE_BYTES = 64 << 20

# How long the process is kept without work.
LANE_SECONDS = 30.0


class Lane(BulkLane, Protocol):
    """A bulk lane whose `run` may be cancelled: nothing lands later."""

    async def begin(self) -> bool:
        """Makes ready for work, which takes a while; whether that came to anything."""

    async def rest(self) -> None:
        """Gives back what it holds until the next `begin`."""


class ReadAhead:
    def __init__(self, store: Store, source: BlockSource, hydrator: Hydrator, lane: Lane | None = None) -> None:
        self._store = store
        self._source = source
        self._hydrator = hydrator
        self._windows: OrderedDict[int, Window] = OrderedDict()
        self._under_way = 0  # fetches
        self._lane = lane
        self._kept = False  # the lane is being made ready, or is
        self._broken = trio.Event()  # set unless the lane is ready
        self._broken.set()
        self._used = False

    def read(self, node: Node, extent: Extent) -> Extent:
        """`extent` is read: starts to bring what comes after it; gives what to fetch along with it, if it is absent."""
        wide = self._window(node).read(extent)
        near = min(wide.stop, extent.stop + AHEAD_FETCH_BYTES)
        self._bring(node, Extent(near, wide.stop))
        return Extent(wide.start, near)

    def _window(self, node: Node) -> Window:
        window = self._windows.pop(node.ino, None)
        if window is None:
            window = Window(self._store.chunk, AHEAD_BYTES)
            if len(self._windows) >= WINDOWS:
                self._windows.popitem(last=False)
        self._windows[node.ino] = window
        return window

    def _bring(self, node: Node, extent: Extent) -> None:
        """Starts to fetch what of `extent` nobody fetches yet, in pieces worth a call of their own."""
        nursery = self._hydrator.nursery
        if nursery is None or not self._source.reachable or extent.start >= extent.stop:
            return
        assert node.record is not None
        assert node.record.presence is not None
        presence = node.record.presence
        if self._lane is not None and not self._kept and presence.absent_bytes >= LANE_BYTES:
            self._kept = True
            nursery.start_soon(self._keep, self._lane)
        taken = self._hydrator.claimed(node.ino)
        wanted = chunks_touched(extent.clip(presence.limit), presence.chunk)
        free = [index for index in presence.missing(wanted) if index not in taken]
        lane = None if self._broken.is_set() else self._lane
        most = (AHEAD_FETCH_BYTES if lane is None else BULK_JOB_BYTES) // presence.chunk
        while self._under_way < AHEAD_FETCHES and (len(free) >= most or (free and extent.stop >= presence.limit)):
            flight = self._hydrator.claim(node, free[:most], in_hand=lane is None)
            free = free[most:]
            self._under_way += 1
            nursery.start_soon(self._fetch, node, presence, flight, lane)

    async def _fetch(self, node: Node, presence: Presence, flight: Flight, lane: Lane | None) -> None:
        try:
            if lane is None:
                await self._hydrator.fetch(node, presence, flight, demand=False)
            else:
                await self._carry(node, presence, flight, lane)
        except (VoyfsError, OSError) as error:
            log.debug("reading ahead fails", why=str(error))
        finally:
            self._under_way -= 1
            self._hydrator.land(node, flight)

    async def _carry(self, node: Node, presence: Presence, flight: Flight, lane: Lane) -> None:
        assert node.record is not None
        record, progress = node.record, self._hydrator.progress
        extents = coalesce(sorted(flight.chunks), presence.chunk, presence.limit, BULK_JOB_BYTES)
        job = FileJob(self._store.tree.path(node), node.ino, record.source, record.version, tuple(extents))
        self._used = True
        self._hydrator.demand_begins()
        try:
            (outcome,) = await lane.run([job])
        finally:
            self._hydrator.demand_ends()
        progress.background_bytes += outcome.data_bytes
        progress.seed_bytes += outcome.seed_bytes
        progress.spared_bytes += outcome.spared_bytes
        if isinstance(outcome.error, SourceUnreachable):
            self._broken.set()
        if outcome.error is not None:
            raise outcome.error
        self._store.content.filled((node, sorted(flight.chunks)))

    async def _keep(self, lane: Lane) -> None:
        """Has the lane ready as long as it is used and works."""
        try:
            if await lane.begin():
                broken = self._broken = trio.Event()
                self._used = True
                while self._used and not broken.is_set():
                    self._used = False
                    with trio.move_on_after(LANE_SECONDS):
                        await broken.wait()
                broken.set()
            await lane.rest()
        finally:
            self._kept = False
