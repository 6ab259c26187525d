"""Reading the content of exported files: versions, holes, bytes and their digests.

A version is checked before and after every read, so what is given is the content of exactly
that version, or an error. Knows nothing of gRPC.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import xxhash

from voyfs.core.entry import Version
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK, PIECE_BYTES
from voyfs.rpc.lease import is_still
from voyfs.rpc.pagecache import cached_extents
from voyfs.rpc.tree import Tree, TreeError, Trouble, as_tree_errors, version_of

# The kernel stamps changes with a clock that ticks up to every 10 ms: a file that changes twice
# within one tick may keep its stamps. A stamp older than this clock's reading cannot recur.
_STAMP_CLOCK = 5  # CLOCK_REALTIME_COARSE, which the time module does not name
_NAP_SECONDS = 0.002
# Stamps further in the future come from a clock that was set back; no change will repeat them.
_TICKS_NS = 20_000_000

_ZEROS = bytes(CHUNK)


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive bytes of a file at `start`; `data` is None for a hole."""

    start: int
    length: int
    data: bytes | memoryview | None
    offer: int | None = None  # index of the offer that has the same data

    @property
    def sent(self) -> int:
        """Bytes of data that have to be sent."""
        return 0 if self.data is None or self.offer is not None else self.length


class SourceFile:
    """An open regular file whose content is known to be of `version`."""

    def __init__(self, fd: int, version: Version, blocks: int) -> None:
        """`blocks`: as st_blocks."""
        self._fd = fd
        self.version = version
        # Then looking for holes would cost more than it could save: some file systems look at every page.
        self._solid = blocks * 512 >= version.size

    def runs(self, extent: Extent) -> Iterator[Run]:
        """The bytes of `extent` in order, at most PIECE_BYTES of data at a time; whole chunks of zeros are holes.

        `extent` lies within the size of the version. Raises TreeError.
        """
        if self._solid:
            yield from self._data(extent.start, extent.stop)
            return
        start = extent.start
        while start < extent.stop:
            with as_tree_errors():
                data = min(self._seek(start, os.SEEK_DATA, extent.stop, start), extent.stop)
                if data > start:
                    self._check()
                    yield Run(start, data - start, None)
                    start = data
                    continue
                stop = min(self._seek(start, os.SEEK_HOLE, extent.stop, extent.stop), extent.stop)
            yield from self._data(start, stop)
            start = stop

    def _data(self, start: int, stop: int) -> Iterator[Run]:
        while start < stop:
            run = self._read(start, min(stop - start, PIECE_BYTES))
            yield from _without_zeros(run)
            start += run.length

    def digest(self, alive: Callable[[], bool]) -> bytes:
        """XXH3-128 of the whole content; stops early, with a TreeError, once not `alive`."""
        digest = xxhash.xxh3_128()
        start = 0
        while start < self.version.size:
            if not alive():
                raise TreeError(Trouble.UNREADABLE, "nobody waits for it any more")
            run = self._read(start, min(self.version.size - start, PIECE_BYTES))
            digest.update(run.data or b"")
            start += run.length
        self._check()
        return digest.digest()

    def cached(self, most: int) -> list[Extent]:
        """What of it lies in the page cache, in whole chunks; at most `most` extents."""
        return cached_extents(self._fd, self.version.size, most)

    @property
    def still(self) -> bool:
        """Nobody can write into it now: whatever does later makes it of another version first."""
        return is_still(self._fd)

    def _seek(self, start: int, whence: int, end: int, otherwise: int) -> int:
        """Where data or a hole begins; `end` past the last, `otherwise` where unsupported."""
        try:
            return os.lseek(self._fd, start, whence)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return end
            if error.errno in (errno.EINVAL, errno.ENOTSUP):
                return otherwise
            raise

    def _read(self, start: int, length: int) -> Run:
        with as_tree_errors():
            data = os.pread(self._fd, length, start)
        if len(data) != length:
            raise TreeError(Trouble.CHANGED, "the file has become shorter")
        self._check()
        return Run(start, length, data)

    def _check(self) -> None:
        with as_tree_errors():
            if version_of(os.fstat(self._fd)) != self.version:
                raise TreeError(Trouble.CHANGED, "the file has changed while it was read")


def _without_zeros(run: Run) -> Iterator[Run]:
    """`run` with those parts as holes that are whole chunks of zeros."""
    data = run.data
    assert isinstance(data, bytes)
    if not any(data.startswith(_ZEROS, at) for at in range(0, run.length, CHUNK)):
        yield run
        return
    at = 0
    view = memoryview(data)
    while at < run.length:
        zeros = data.startswith(_ZEROS, at)
        end = at + CHUNK
        while end < run.length and data.startswith(_ZEROS, end) == zeros:
            end += CHUNK
        end = min(end, run.length)
        yield Run(run.start + at, end - at, None if zeros else view[at:end])
        at = end


@contextmanager
def open_file(tree: Tree, path: bytes, version: Version | None) -> Iterator[SourceFile]:
    """Opens the regular file `path`, which must be of `version` (None: of any).

    Raises TreeError; one of another version, or not a regular file any more, has CHANGED.
    """
    with as_tree_errors():
        fd = tree.open_regular(path)
    if fd is None:
        raise TreeError(Trouble.CHANGED, "not a regular file")
    try:
        with as_tree_errors():
            status = _settled(fd)
        found = version_of(status)
        if version not in (None, found):
            raise TreeError(Trouble.CHANGED, "the file has changed")
        yield SourceFile(fd, found, status.st_blocks)
    finally:
        os.close(fd)


def _settled(fd: int) -> os.stat_result:
    """Attributes that the next change of the file is certain to alter."""
    while True:
        status = os.fstat(fd)
        ahead = status.st_ctime_ns - time.clock_gettime_ns(_STAMP_CLOCK)
        if not 0 <= ahead <= _TICKS_NS:
            return status
        time.sleep(_NAP_SECONDS)
