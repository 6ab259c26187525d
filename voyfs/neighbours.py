"""Small files, brought ahead of whoever reads those of a directory one after the other.

A call to the source costs far more than the bytes of a small file, so several share one. What for a large file is its
next bytes are here the other small files of the directory, from the one that was asked for on: in the order in which
the directory is listed, if that is how it followed the one before, else in that of the names. How many is
`core.prefetch`'s to say. Claims and lands as the hydrator does; a failure is told to nobody, for whoever needs a file
asks again.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Set
from dataclasses import replace
from typing import NamedTuple

import trio

from voyfs.core.errors import SourceError, VoyfsError
from voyfs.core.extents import Extent
from voyfs.core.limits import AHEAD_FETCH_BYTES, NEAR_FETCHES, NEAR_FILES, NEAR_FILES_FIRST
from voyfs.core.prefetch import Batches
from voyfs.core.presence import Presence
from voyfs.hydrator import Flight, Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource, Wanted
from voyfs.store.store import Store
from voyfs.store.tree import Node

log = get_logger(__name__)

# Directories read at the same time, of which is remembered what is still to be brought.
DIRECTORIES = 16

# Names looked at for one batch, some of which are here already: a stat each, together some milliseconds.
LOOKED_AT = 4 * NEAR_FILES

# Files landed between two moments in which other tasks may run: about a millisecond.
LAND_SLICE = 8


class _Claim(NamedTuple):
    node: Node
    presence: Presence
    flight: Flight
    wanted: Wanted


class Neighbours:
    def __init__(self, store: Store, source: BlockSource, hydrator: Hydrator, listed: Callable[[bytes], int]) -> None:
        """`listed` says where a name stands in a listing of its directory."""
        self._store = store
        self._source = source
        self._hydrator = hydrator
        self._listed = listed
        self._before = b""  # the file that was missed before
        self._batches = Batches(NEAR_FILES_FIRST, NEAR_FILES)
        self._names: OrderedDict[int, deque[bytes]] = OrderedDict()  # not brought yet, by directory
        self._under_way = 0
        self.unread: Set[int] = self._batches.unread

    def read(self, node: Node) -> None:
        """The small file `node` is read: one of `unread`, or one that is absent."""
        if node.ino in self.unread:
            count = self._batches.read(node.ino)
            before = b""
        else:
            count = self._batches.missed(node.parent)
            before, self._before = self._before, node.name
        nursery = self._hydrator.nursery
        if count and nursery is not None and self._under_way < NEAR_FETCHES and self._source.reachable:
            self._under_way += 1
            nursery.start_soon(self._bring, node, before, count)

    async def _bring(self, node: Node, before: bytes, count: int) -> None:
        claims: deque[_Claim] = deque()
        try:
            self._claim(node, before, count, claims)
            if claims:
                await self._fetch(claims)
        except (VoyfsError, OSError) as error:
            log.debug("bringing neighbours fails", why=str(error))
        finally:
            self._under_way -= 1
            for claim in claims:
                self._hydrator.land(claim.node, claim.flight)

    def _claim(self, node: Node, before: bytes, count: int, claims: deque[_Claim]) -> None:
        """Claims up to `count` absent small files of the directory that `node` is in."""
        directory = self._store.tree.nodes.get(node.parent)
        if node.parked or directory is None or not self._store.usable(directory):
            return
        names = self._rest(directory, before, node.name)
        size = 0
        for _ in range(min(len(names), LOOKED_AT)):
            if len(claims) == count or size >= AHEAD_FETCH_BYTES:
                break
            try:
                other, _ = self._store.tree.child(directory, names.popleft())
            except OSError:  # removed meanwhile
                continue
            record = other.record
            if record is None or record.complete or not _is_small(record.presence) or self._hydrator.claimed(other.ino):
                self._store.names.release(other)
                continue
            presence = record.presence
            assert presence is not None
            wanted = Wanted(record.source, record.version, (Extent(0, presence.limit),))
            claims.append(_Claim(other, presence, self._hydrator.claim(other, [0], in_hand=True), wanted))
            size += presence.limit
        self._batches.brought(claim.node.ino for claim in claims)

    def _rest(self, directory: Node, before: bytes, name: bytes) -> deque[bytes]:
        """Names in `directory` that nobody brought; when asked first: those after `name`, then the others."""
        names = self._names.pop(directory.ino, None)
        if names is None:
            files = [name for name, _, is_directory in self._store.tree.entries(directory) if not is_directory]
            orders = _from(name, sorted(files)), _from(name, sorted(files, key=self._listed))
            # the one in which `before` is nearer to the end, where `name` is
            names = max(orders, key=lambda order: order.index(before)) if before in files else orders[0]
            if len(self._names) >= DIRECTORIES:
                self._names.popitem(last=False)
        self._names[directory.ino] = names
        return names

    async def _fetch(self, claims: deque[_Claim]) -> None:
        """Brings what is claimed; takes from `claims` what has landed."""
        hydrator = self._hydrator
        await hydrator.attach()
        hydrator.demand_begins()
        try:
            wanted = [await self._offering(claim.wanted) for claim in claims]
            found = await self._source.fetch_files(wanted)
        finally:
            hydrator.demand_ends()
        for number, pieces in enumerate(found):
            claim = claims[0]
            if not isinstance(pieces, SourceError):
                hydrator.keep(claim.node, claim.presence, claim.flight, pieces)
                hydrator.progress.background_bytes += sum(piece.sent for piece in pieces)
                hydrator.progress.seed_bytes += sum(piece.length for piece in pieces if piece.offered)
            claims.popleft()
            hydrator.land(claim.node, claim.flight)
            if number % LAND_SLICE == LAND_SLICE - 1:
                await trio.lowlevel.checkpoint()

    async def _offering(self, wanted: Wanted) -> Wanted:
        return replace(wanted, offers=tuple(await self._hydrator.offers(wanted.path, wanted.extents)))


def _is_small(presence: Presence | None) -> bool:
    return presence is not None and presence.limit <= presence.chunk


def _from(name: bytes, names: list[bytes]) -> deque[bytes]:
    """`names` in the same order, but from the one after `name` on, which is the last."""
    at = names.index(name) + 1 if name in names else 0
    return deque(names[at:] + names[:at])
