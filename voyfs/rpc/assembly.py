"""Answers held against what was asked: pieces of files, and pages of directories.

A source may be anyone. What comes out of here is complete, in order, within the bounds and
matches its digests. Pure; knows nothing of connections or of retrying.
"""

from collections.abc import Sequence

import xxhash
import zstandard

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceMalformed
from voyfs.core.extents import Extent
from voyfs.core.limits import DIRECTORY_BYTES, DIRECTORY_ENTRIES
from voyfs.core.offers import Offer
from voyfs.ports import Listing, Piece
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.wire import entry_from_wire, failure_error, path_problem, shown


class DigestMismatch(Exception):
    """Data that is not what the source read; asking again may help."""


def unpacked(frame: memoryview, length: int) -> bytes:
    """What a Zstandard frame of `length` bytes has. Raises DigestMismatch where it has no such thing."""
    try:
        if zstandard.frame_content_size(frame) == length:  # what is allocated for it
            return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError:
        pass
    raise DigestMismatch(f"{len(frame)} bytes are no frame of {length}")


class FileAssembly:
    """The pieces of one file, as they come in."""

    def __init__(self, path: bytes, extents: Sequence[Extent], offers: Sequence[Offer] = ()) -> None:
        self._path = path
        self._offers = offers
        self._extents = iter(extents)
        self._position = self._stop = 0
        self._advance()

    def _advance(self) -> None:
        if self._position == self._stop:
            self._position, self._stop = next(self._extents, (-1, -1))

    @property
    def complete(self) -> bool:
        return self._position < 0

    def accept(self, wire: pb.Piece, data: memoryview) -> Piece:
        """The next piece, a view of `data`. Raises SourceMalformed or DigestMismatch; then nothing more counts."""
        length = wire.length
        if (
            self.complete
            or wire.offset != self._position
            or not 0 < length <= self._stop - self._position
            or len(data) != (0 if wire.hole or wire.offer else wire.packed or length)
            or (wire.packed and (wire.hole or wire.offer))
        ):
            raise SourceMalformed(f"the source sent bytes not asked for: {shown(self._path)}")
        found = None
        if not wire.hole:
            found = self._offered(wire) if wire.offer else unpacked(data, length) if wire.packed else data
            if xxhash.xxh3_64_intdigest(found) != wire.xxh3:
                raise DigestMismatch(
                    f"bytes {wire.offset} to {wire.offset + length} of {shown(self._path)} do not match their digest"
                )
        self._position += length
        self._advance()
        return Piece(wire.offset, length, found, offered=bool(wire.offer), packed=wire.packed)

    def _offered(self, wire: pb.Piece) -> bytes:
        if wire.offer <= len(self._offers):
            offer = self._offers[wire.offer - 1]
            if (offer.start, len(offer.data)) == (wire.offset, wire.length):
                return offer.data
        raise SourceMalformed(f"the source took what was not offered: {shown(self._path)}")


class ListingAssembly:
    """Pages of directories, one directory after the other, made into Listings."""

    def __init__(self) -> None:
        self._path: bytes | None = None
        self._inode = 0
        self._entries: dict[bytes, Entry] = {}
        self._bytes = 0

    @property
    def complete(self) -> bool:
        """Whether no directory has been begun but not ended."""
        return self._path is None

    def accept(self, page: pb.Listing) -> Listing | None:
        """The directory that this page ends, if it does. Raises SourceMalformed."""
        self._begin_or_continue(page)
        if page.HasField("failure"):
            problem = str(failure_error(page.failure, page.path))
            return self._end(Listing(page.path, page.inode, (), problem))
        for wire in page.entries:
            entry = entry_from_wire(wire, named=True)
            if entry.name in self._entries:
                raise SourceMalformed(f"the source sent the name {shown(entry.name)} twice")
            self._entries[entry.name] = entry
        self._bytes += page.ByteSize()
        if len(self._entries) > DIRECTORY_ENTRIES or self._bytes > DIRECTORY_BYTES:
            raise SourceMalformed(f"the source's directory {shown(page.path)} has no end")
        if not page.last:
            return None
        if page.inode == 0:
            raise SourceMalformed(f"the source sent no inode for {shown(page.path)}")
        return self._end(Listing(page.path, page.inode, tuple(self._entries.values())))

    def _begin_or_continue(self, page: pb.Listing) -> None:
        if self._path is None:
            if path_problem(page.path) is not None:
                raise SourceMalformed(f"the source sent an impossible path: {shown(page.path)}")
            self._path, self._inode = page.path, page.inode
        elif page.path != self._path or page.inode != self._inode:
            raise SourceMalformed(f"the source left {shown(self._path)} unfinished")
        if not (page.entries or page.last or page.HasField("failure")):
            raise SourceMalformed(f"the source sent an empty page of {shown(page.path)}")

    def _end(self, listing: Listing) -> Listing:
        self._path = None
        self._entries = {}
        self._bytes = 0
        return listing
