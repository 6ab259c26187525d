"""Which chunks of one file are local.

A chunk is absent, being fetched, or present; this map knows absent and present, and the
hydrator's flights know what is being fetched. Only the bytes below `limit` ever came from the
source: chunks that begin at or past it are present by definition (they are the container's own,
or a hole). Truncation lowers the limit and nothing raises it, so bytes that the container cut
off can never come back.

Pure: no I/O. Invariants, checked by property tests:
    absent_bytes == sum of the lengths, below the limit, of the absent chunks
    complete  <=>  absent_bytes == 0
    a present chunk never becomes absent
"""

from collections.abc import Iterable, Iterator

from voyfs.core.extents import Extent, chunk_count, chunk_extent


class Presence:
    """Presence map of a file whose first `limit` bytes come from the source.

    `bits` is what `bytes()` of such a map gave: bit i (least significant first) is chunk i.
    Missing trailing bytes mean absent, so the map of a file nobody touched is empty.
    """

    __slots__ = ("_bits", "absent_bytes", "chunk", "limit")

    def __init__(self, limit: int, chunk: int, bits: bytes = b"") -> None:
        self.limit = limit
        self.chunk = chunk
        self._bits = bytearray(bits)
        self.absent_bytes = limit
        if bits:
            count = chunk_count(limit, chunk)
            present = sum(1 for index in range(min(count, len(bits) * 8)) if self._bit(index))
            self.absent_bytes = limit - present * chunk
            if count and self._bit(count - 1):
                self.absent_bytes += count * chunk - limit

    def _bit(self, index: int) -> bool:
        byte = index >> 3
        return byte < len(self._bits) and bool(self._bits[byte] >> (index & 7) & 1)

    @property
    def complete(self) -> bool:
        return self.absent_bytes == 0

    def is_present(self, index: int) -> bool:
        return index * self.chunk >= self.limit or self._bit(index)

    def missing(self, indexes: Iterable[int]) -> list[int]:
        """Those of `indexes` that are absent, in the same order."""
        bits, known = self._bits, len(self._bits) * 8
        end = chunk_count(self.limit, self.chunk)
        return [
            index for index in indexes if index < end and (index >= known or not bits[index >> 3] >> (index & 7) & 1)
        ]

    def absent(self, first: int = 0) -> Iterator[int]:
        """All absent chunks from `first` on, ascending. The map may change meanwhile."""
        index = first
        while index * self.chunk < self.limit:
            if not index & 7 and index >> 3 < len(self._bits) and self._bits[index >> 3] == 0xFF:
                index += 8
                continue
            if not self._bit(index):
                yield index
            index += 1

    def mark(self, index: int) -> bool:
        """Makes chunk `index` present; whether it was absent."""
        if self.is_present(index):
            return False
        byte = index >> 3
        if byte >= len(self._bits):
            # grown in steps of 64 bytes (64 MiB of file at 128 KiB) to keep marking in order cheap
            self._bits.extend(bytes((byte | 63) + 1 - len(self._bits)))
        self._bits[byte] |= 1 << (index & 7)
        self.absent_bytes -= min(self.chunk, self.limit - index * self.chunk)
        return True

    def extent(self, index: int) -> Extent:
        """The bytes of chunk `index` that come from the source."""
        return chunk_extent(index, self.chunk, self.limit)

    def lower(self, limit: int) -> None:
        """The container cut the file: nothing at or past `limit` comes from the source any more."""
        if limit >= self.limit:
            return
        old = chunk_count(self.limit, self.chunk)
        for index in range(limit // self.chunk, old):
            if not self._bit(index):
                self.absent_bytes -= self.extent(index).length
        self.limit = limit
        last = limit // self.chunk
        if limit % self.chunk and not self._bit(last):
            self.absent_bytes += self.extent(last).length

    def __bytes__(self) -> bytes:
        count = chunk_count(self.limit, self.chunk)
        return bytes(self._bits[: -(-count // 8)]).rstrip(b"\0")
