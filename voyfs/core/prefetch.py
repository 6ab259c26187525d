"""What to fetch before it is asked for.

Pure policies: they are told what was read and say what to bring as well; whether and how it is
brought is the hydrator's business.
"""

from voyfs.core.extents import Extent


class Window:
    """Readahead of one file: doubles while reads are sequential, starts again when they are not.

    The same idea as the kernel's own readahead, one layer further out: each round trip to the
    source is worth more the more it brings, but only for who reads on.
    """

    __slots__ = ("_ahead", "_next", "_smallest", "_widest")

    def __init__(self, smallest: int, widest: int) -> None:
        self._smallest = smallest
        self._widest = widest
        self._next = 0
        self._ahead = 0

    def read(self, extent: Extent) -> Extent:
        """A read of `extent` happens; returns it, lengthened by what is worth fetching with it."""
        if extent.start == self._next and extent.start:
            self._ahead = min(max(self._smallest, self._ahead * 2), self._widest)
        elif not self._next <= extent.start <= self._next + self._ahead:
            self._ahead = 0
        self._next = extent.stop
        return Extent(extent.start, extent.stop + self._ahead)
