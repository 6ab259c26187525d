"""Brings what is absent when somebody asks for it, and a little ahead of that.

One fetch per chunk, however many want it: a *flight* claims its chunks until their bytes are in
the backing file or the fetch failed; whoever else needs them waits for the flight. The background
(see `background`) claims its flights here too, and puts off starting one while a demand is under way.

Every change of presence happens in this process's trio thread, and no claim is taken or checked
across an await (docs/CONCURRENCY.md).
"""

from collections import deque
from collections.abc import Awaitable, Iterable, Sequence, Set
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import trio

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceChanged, SourceCorrupt, SourceMalformed, SourceUnreadable
from voyfs.core.extents import Extent, chunks_touched, coalesce
from voyfs.core.limits import FETCH_BYTES
from voyfs.core.metrics import Histogram
from voyfs.core.offers import Offer
from voyfs.core.presence import Presence
from voyfs.logs import get_logger
from voyfs.ports import BlockSource, Piece
from voyfs.seeds import Seeds
from voyfs.sharing import Share
from voyfs.store.store import Store
from voyfs.store.tree import Node
from voyfs.traces import Recorder
from voyfs.turns import Turns

log = get_logger(__name__)

# Entries made between two looks at the clock.
POPULATE_SLICE = 8

# Lasting demand leaves the background one job, 2 MiB, in this time.
GIVE_WAY_SECONDS = 0.2

# Between two looks whether anybody still waits at another mount: a demand takes some milliseconds.
LOOK_SECONDS = 0.005

# How soon others hear that a source is away, and go on.
TELL_SECONDS = 0.2


@dataclass(slots=True, eq=False)
class Flight:
    """`in_hand`: this process itself writes the bytes, and only those of chunks that are left in `chunks`."""

    chunks: set[int]
    in_hand: bool
    landed: trio.Event = field(default_factory=trio.Event)


class Problem(NamedTuple):
    """Why a file or directory of the source cannot be had: `event` is a name for machines."""

    event: str
    why: str


EVENTS: tuple[tuple[type[Exception], str], ...] = (
    (SourceChanged, "source-changed"),
    (SourceCorrupt, "source-damaged"),
    (SourceMalformed, "source-malformed"),
    (SourceUnreadable, "source-unreadable"),
    (Exception, "not-to-be-had"),
)


@dataclass(slots=True)
class Progress:
    """What was done and what is being done, for status and metrics; counts are of this daemon."""

    populated: bool = False  # every directory of the source is known
    hydrated: bool = False  # and every byte is local
    ended: bool = False  # the background has done what it could
    paused: str = ""  # why nothing moves, empty when it does
    demand_fetches: int = 0  # that somebody waited for
    demand_bytes: int = 0  # of these
    background_bytes: int = 0
    first: int = 0  # ranges that go before everything else and may not be here yet
    seed_bytes: int = 0  # that a local tree had, so that they did not cross the network
    spared_bytes: int = 0  # of what was fetched: they did not cross the network, for they came packed
    written_bytes: int = 0  # by whoever uses the mount
    working_set_bytes: int = 0  # that the source held in its memory when it was asked
    hits: int = 0  # reads whose bytes were local
    waits: Histogram = field(default_factory=Histogram)  # seconds, of the other reads
    problems: dict[bytes, Problem] = field(default_factory=dict)  # by path on the source

    @property
    def fetched_bytes(self) -> int:
        """From the source."""
        return self.demand_bytes + self.background_bytes


class Nearby(Protocol):
    """Small files that are brought along with those that are read."""

    unread: Set[int]  # that were brought, and nobody has read yet

    def read(self, node: Node, /) -> None:
        """The small file `node` is read: one of `unread`, or one that is absent."""


class Next(Protocol):
    """What comes next in a large file that is read is brought ahead."""

    def read(self, node: Node, extent: Extent, /) -> Extent:
        """`extent` is read; gives what to fetch along with it, if it is absent: `extent`, and what follows it."""


class Hydrator:
    """Fetching for one store from one source."""

    def __init__(
        self, store: Store, source: BlockSource, seeds: Seeds | None = None, share: Share | None = None
    ) -> None:
        """`share`: with other mounts, whose backgrounds give way to what is waited for here, and ours to theirs."""
        self.progress = Progress()
        self.recorder: Recorder | None = None
        self._seeds = seeds
        self._share = share
        self._store = store
        self._source = source
        self._flights: dict[int, list[Flight]] = {}
        self.populating: dict[int, trio.Event] = {}
        self._hurried: set[int] = set()  # of these, those that somebody waits for
        self.neighbours: Nearby | None = None  # without it none are brought
        self.next: Next | None = None  # without it nothing is brought ahead of a reader
        self.nursery: trio.Nursery | None = None  # of what is fetched ahead of readers; without it nothing is
        self._demands = 0
        self._no_demand = trio.Event()
        self._no_demand.set()
        self.turns = Turns()
        self._attaching = trio.Lock()
        self._attached = False
        self.changed = trio.Event()  # set, and replaced, when something was populated or landed
        self.fresh: deque[int] = deque()  # files populated since the background looked

    # -- the source -------------------------------------------------------------------------

    async def attach(self) -> None:
        """Makes sure that the source is the store's own before anything is taken from it."""
        if self._attached:
            return
        async with self._attaching:
            if not self._attached:
                attachment = await self._source.attach()
                self._store.bind(attachment.export_id, attachment.root)
                self._attached = True

    # -- names ------------------------------------------------------------------------------

    async def populate(self, node: Node) -> None:
        """Makes the names in directory `node` local. Raises SourceError, OSError."""
        while not self._store.usable(node):
            under_way = self.populating.get(node.ino)
            if under_way is not None:
                self._hurried.add(node.ino)
                await under_way.wait()
                continue
            await self.fill(node, self._list(node))

    async def _list(self, node: Node) -> Sequence[Entry]:
        assert node.record is not None
        await self.attach()
        record = node.record
        with self._demand():
            listing = await self._source.list_directory(record.source, record.version.inode)
        return listing.entries

    async def fill(self, node: Node, entries: Awaitable[Sequence[Entry]], *, behind: bool = False) -> None:
        """Makes what `entries` gives; alone with this directory from the start to the end.

        With `behind` whoever uses the mount goes first, as long as nobody waits for these names.
        """
        done = self.populating[node.ino] = trio.Event()
        node.held += 1
        placeholders = self._store.placeholders
        try:
            found = await entries
            placeholders.clear(node)
            try:
                for start in range(0, len(found), POPULATE_SLICE):
                    began = trio.current_time()
                    placeholders.make(node, found[start : start + POPULATE_SLICE])
                    if behind and node.ino not in self._hurried:
                        await self.turns.give(trio.current_time() - began)
                    else:
                        await trio.lowlevel.checkpoint()
                self.fresh += placeholders.finish(node) or ()
            except BaseException:
                placeholders.abandon(node)
                raise
        finally:
            del self.populating[node.ino]
            self._hurried.discard(node.ino)
            done.set()
            node.held -= 1
            self._store.names.release(node)
        self.wake()

    # -- bytes on demand --------------------------------------------------------------------

    async def ensure(self, node: Node, extent: Extent, *, ahead: bool = False) -> None:
        """Makes the bytes of `extent` local; with `ahead`, more if the file is read in order.

        Raises SourceError when they cannot be had, OSError when they cannot be kept.
        """
        record = node.record
        if record is not None and self.recorder is not None:
            self.recorder.needed(record.source, extent, record.version.size)
        if record is None or record.presence is None or record.presence.complete:
            self.progress.hits += 1
            if self.neighbours is not None and node.ino in self.neighbours.unread:
                self.neighbours.read(node)
            return
        presence = record.presence
        wide = extent
        if presence.limit <= presence.chunk:
            if ahead and self.neighbours is not None:
                self.neighbours.read(node)
        elif ahead and self.next is not None:
            wide = self.next.read(node, extent)
        if not presence.missing(chunks_touched(extent.clip(presence.limit), presence.chunk)):
            self.progress.hits += 1
            return
        since = trio.current_time()
        try:
            await self._ensure(node, presence, extent, wide, demand=True)
        finally:
            self.progress.waits.observe(trio.current_time() - since)

    async def _ensure(self, node: Node, presence: Presence, extent: Extent, wide: Extent, *, demand: bool) -> None:
        while not presence.complete:
            missing = presence.missing(chunks_touched(extent.clip(presence.limit), presence.chunk))
            if not missing:
                return
            taken = self.claimed(node.ino)
            claimable = [index for index in missing if index not in taken]
            if not claimable:
                await self.flying(node, missing)[0].landed.wait()
                continue
            more = chunks_touched(wide.clip(presence.limit), presence.chunk)
            others = [index for index in presence.missing(more) if index > claimable[-1] and index not in taken]
            most = FETCH_BYTES // presence.chunk
            flight = self.claim(node, (claimable + others)[:most], in_hand=True)
            try:
                await self.fetch(node, presence, flight, demand=demand)
            finally:
                self.land(node, flight)

    async def clear(self, node: Node, extent: Extent) -> None:
        """Until the next await, no fetch will write a byte of `extent`.

        Fetches in hand lose what they have of it, so the container's own change need not wait for a
        source that is away; of others, only the background's, it waits for the end.
        """
        record = node.record
        if record is None or record.presence is None:
            return
        while True:
            touched = chunks_touched(extent.clip(record.presence.limit), record.presence.chunk)
            flying = self.flying(node, touched)
            elsewhere = [flight for flight in flying if not flight.in_hand]
            if not elsewhere:
                for flight in flying:
                    flight.chunks.difference_update(touched)
                return
            await elsewhere[0].landed.wait()

    async def fetch(self, node: Node, presence: Presence, flight: Flight, *, demand: bool) -> None:
        """Brings the chunks of a flight in hand. Raises SourceError, OSError."""
        record = node.record
        assert record is not None
        try:
            with self._demand():
                await self.attach()
                extents = list(coalesce(sorted(flight.chunks), presence.chunk, presence.limit, FETCH_BYTES))
                offers = await self.offers(record.source, extents)
                pieces = await self._source.fetch(record.source, record.version, extents, offers) if extents else []
        except SourceChanged as error:
            self.problem(record.source, error)
            raise
        count = sum(piece.sent for piece in pieces)
        self.progress.seed_bytes += sum(piece.length for piece in pieces if piece.offered)
        if demand:
            self.progress.demand_fetches += 1
            self.progress.demand_bytes += count
        else:
            self.progress.background_bytes += count
        self.keep(node, presence, flight, pieces)

    def keep(self, node: Node, presence: Presence, flight: Flight, pieces: Sequence[Piece]) -> None:
        """Writes what `pieces` have of the chunks that a flight in hand still has, and marks these present."""
        left = sorted(flight.chunks)
        for extent in coalesce(left, presence.chunk, presence.limit, FETCH_BYTES):
            for piece in pieces:
                self._store.content.fill(node, piece, extent)
        self._store.content.filled((node, left))

    async def offers(self, path: bytes, extents: Sequence[Extent]) -> list[Offer]:
        """What the seeds have there."""
        if self._seeds is None or not extents:
            return []
        return await trio.to_thread.run_sync(self._seeds.offers, path, extents, abandon_on_cancel=True)

    # -- flights ----------------------------------------------------------------------------

    def flying(self, node: Node, chunks: Iterable[int]) -> list[Flight]:
        flights = self._flights.get(node.ino)
        if not flights:
            return []
        wanted = set(chunks)
        return [flight for flight in flights if not wanted.isdisjoint(flight.chunks)]

    def claimed(self, ino: int) -> set[int]:
        """All chunks of the file `ino` that are being fetched."""
        if ino not in self._flights:
            return set()
        return {index for flight in self._flights[ino] for index in flight.chunks}

    def claim(self, node: Node, chunks: Iterable[int], *, in_hand: bool) -> Flight:
        flight = Flight(set(chunks), in_hand)
        self._flights.setdefault(node.ino, []).append(flight)
        node.held += 1
        return flight

    def land(self, node: Node, flight: Flight) -> None:
        flights = self._flights[node.ino]
        flights.remove(flight)
        if not flights:
            del self._flights[node.ino]
        flight.landed.set()
        node.held -= 1
        self._store.names.release(node)
        self.wake()

    def _demand(self) -> "_Demand":
        return _Demand(self)

    @property
    def demands(self) -> int:
        """Calls to the source that somebody waits for."""
        return self._demands

    def demand_begins(self) -> None:
        self._demands += 1
        if self._demands == 1:
            self._no_demand = trio.Event()
        self.tell_others()

    def demand_ends(self) -> None:
        self._demands -= 1
        if self._demands == 0:
            self._no_demand.set()
        self.tell_others()

    def tell_others(self) -> None:
        """What is waited for here goes before the background of all, unless its source is away: then nothing moves."""
        if self._share is not None:
            self._share.wait(self._demands > 0 and self._source.reachable)

    async def keep_telling(self) -> None:
        """A source may go and come while somebody waits for it."""
        while True:
            await trio.sleep(TELL_SECONDS)
            self.tell_others()

    async def give_way(self) -> None:
        """For the background: waits while demands are under way, here or where it is shared, but not for ever."""
        with trio.move_on_after(GIVE_WAY_SECONDS):
            await self._no_demand.wait()
            while self._share is not None and self._share.others_wait:  # noqa: ASYNC110 - other processes set no event
                await trio.sleep(LOOK_SECONDS)

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def problem(self, source: bytes, error: Exception) -> None:
        problem = Problem(next(event for kind, event in EVENTS if isinstance(error, kind)), str(error))
        if self.progress.problems.get(source) != problem:
            log.warning(problem.event, path=source.decode(errors="replace"), why=problem.why)
            self.progress.problems[source] = problem

    # -- asked for by name ------------------------------------------------------------------

    async def bring(self, node: Node) -> None:
        """Fetches all of one file ahead of everything else in the background."""
        record = node.record
        node.held += 1
        try:
            while record is not None and record.presence is not None and not record.complete:
                start = next(record.presence.absent(), None)
                if start is None:
                    return
                first = start * record.presence.chunk
                extent = Extent(first, min(first + FETCH_BYTES, record.presence.limit))
                await self._ensure(node, record.presence, extent, extent, demand=False)
        finally:
            node.held -= 1
            self._store.names.release(node)


class _Demand:
    """While it is held, the background starts nothing new."""

    __slots__ = ("_hydrator",)

    def __init__(self, hydrator: Hydrator) -> None:
        self._hydrator = hydrator

    def __enter__(self) -> None:
        self._hydrator.demand_begins()

    def __exit__(self, *_: object) -> None:
        self._hydrator.demand_ends()
