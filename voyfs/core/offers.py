"""Bytes that the source may have as well: offered to it by their digests, so that they need not be fetched.

Pure. The digest is a cryptographic one: whoever can write into the tree that the bytes are from could make others
that XXH3 takes for the source's. SHA-256, because processors have instructions for it (docs/ARCHITECTURE.md).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from voyfs.core.extents import Extent

DIGEST_BYTES = 32


def digest_of(data: bytes | memoryview) -> bytes:
    """What an offer of `data` says of it, DIGEST_BYTES long."""
    return sha256(data).digest()


@dataclass(frozen=True, slots=True)
class Offer:
    """`data` may be what the source's file has at `start`."""

    start: int
    data: bytes
    digest: bytes

    @property
    def extent(self) -> Extent:
        return Extent(self.start, self.start + len(self.data))


def divided(extents: Sequence[Extent], chunk: int) -> Iterator[Extent]:
    """The bytes of `extents` in pieces that may each be offered: none goes over a multiple of `chunk`."""
    for extent in extents:
        start = extent.start
        while start < extent.stop:
            stop = min((start // chunk + 1) * chunk, extent.stop)
            yield Extent(start, stop)
            start = stop


def offered_parts(extents: Sequence[Extent], offered: Sequence[Extent]) -> Iterator[tuple[Extent, range]]:
    """The bytes of `extents` in order, cut where an offer begins or ends; with each part the indexes of its offers.

    `offered` ascend, are the same or disjoint, and lie each within one of `extents`.
    """
    index = 0
    for extent in extents:
        start = extent.start
        while start < extent.stop:
            if index == len(offered) or offered[index].start >= extent.stop:
                yield Extent(start, extent.stop), range(0)
                break
            part, first = offered[index], index
            if part.start > start:
                yield Extent(start, part.start), range(0)
            while index < len(offered) and offered[index] == part:
                index += 1
            yield part, range(first, index)
            start = part.stop
