"""What to fetch before it is asked for.

Pure policies: they are told what was read and say what to bring as well; whether and how it is
brought is the hydrator's business.
"""

from collections.abc import Iterable

from voyfs.core.extents import Extent


class Batches:
    """How many small files to bring along with one that is asked for: the others of its directory.

    Nothing for one file alone. From the second of a directory on, twice as many each time, as long as those that were
    brought are read, and half as many when most of them are not.
    """

    __slots__ = ("_asked", "_directory", "_first", "_most", "_size", "unread")

    def __init__(self, first: int, most: int) -> None:
        self._first = first
        self._most = most
        self._size = 0
        self._directory = 0
        self._asked = False  # the next batch is said, and not brought yet
        self.unread: set[int] = set()  # files that were brought last, and nobody has read yet

    def missed(self, directory: int) -> int:
        """A file of `directory` is asked for that nobody brought; how many others to bring."""
        if not self._size and directory != self._directory:
            self._directory = directory
            return 0
        if 2 * len(self.unread) > self._size:
            self._size //= 2
        else:
            self._widen()
        self.unread.clear()
        self._asked = True
        return self._size

    def read(self, file: int) -> int:
        """One of `unread` is read; how many more to bring, so that they are here before the last of these is read."""
        self.unread.discard(file)
        if self._asked or 2 * len(self.unread) > self._size:
            return 0
        self._asked = True
        self._widen()
        return self._size

    def brought(self, files: Iterable[int]) -> None:
        """These come; if none, all of the directory were brought, and there is nothing to say before the next miss."""
        before = len(self.unread)
        self.unread.update(files)
        self._asked = len(self.unread) == before

    def _widen(self) -> None:
        self._size = min(max(self._first, 2 * self._size), self._most)


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
            self._ahead = min(max(self._smallest, self._ahead * 2, extent.length), self._widest)
        elif not self._next <= extent.start <= self._next + self._ahead:
            self._ahead = 0
        self._next = extent.stop
        return Extent(extent.start, extent.stop + self._ahead)
