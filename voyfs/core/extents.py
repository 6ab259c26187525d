"""Byte ranges and the chunks they touch.

An extent is a half-open byte range [start, stop). Chunk i of a file is the extent
[i * CHUNK, (i + 1) * CHUNK); presence is kept per chunk.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Extent(NamedTuple):
    """The bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        return self.stop - self.start

    def clip(self, stop: int) -> "Extent":
        """The part below `stop`; empty (start == stop) when nothing of it is."""
        return Extent(min(self.start, stop), min(self.stop, stop))


def chunks_touched(extent: Extent, chunk: int) -> range:
    """Indexes of all chunks that share a byte with `extent`; empty for an empty extent."""
    if extent.start >= extent.stop:
        return range(0)
    return range(extent.start // chunk, -(-extent.stop // chunk))


def chunk_extent(index: int, chunk: int, limit: int) -> Extent:
    """Bytes of chunk `index` below `limit`."""
    return Extent(index * chunk, (index + 1) * chunk).clip(limit)


def chunk_count(size: int, chunk: int) -> int:
    """How many chunks a file of `size` bytes has."""
    return -(-size // chunk)


def coalesce(indexes: Iterable[int], chunk: int, limit: int, longest: int) -> Iterator[Extent]:
    """Joins ascending chunk indexes into extents of at most `longest` bytes, none past `limit`.

    `longest` is a multiple of `chunk`, so an extent never splits a chunk.
    """
    start = stop = -1
    for index in indexes:
        first = index * chunk
        last = min(first + chunk, limit)
        if first >= last:
            continue
        if first == stop and last - start <= longest:
            stop = last
            continue
        if start >= 0:
            yield Extent(start, stop)
        start, stop = first, last
    if start >= 0:
        yield Extent(start, stop)
