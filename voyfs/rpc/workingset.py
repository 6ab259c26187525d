"""What of an exported tree is in use, told from the source's page cache. The server's side only."""

import heapq
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from voyfs.core.entry import Version
from voyfs.core.extents import Extent
from voyfs.core.limits import PAGE_BYTES, WORKING_SET_EXTENTS, WORKING_SET_FILE_EXTENTS, WORKING_SET_FILES
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.lease import is_still
from voyfs.rpc.openat import reopened
from voyfs.rpc.pagecache import cached_extents
from voyfs.rpc.reader import open_file
from voyfs.rpc.tree import Tree, TreeError, version_of
from voyfs.rpc.wire import ranges_to_wire

# The kernel notes a read once a day at least (relatime).
_LATELY_NS = 86_400 * 1_000_000_000


# Files looked at, and told, before all others are: those that were used last. On a busy host that is seconds earlier.
SOON_FILES = 512


class _File(NamedTuple):
    """One file of the working set, the more useful the greater."""

    cached: bool
    used_ns: int
    path: bytes
    version: Version
    extents: list[Extent]


class _Found(NamedTuple):
    """One file of the tree, not opened yet."""

    used_ns: int  # when it was last read or written, as exactly as the kernel notes it
    path: bytes
    status: os.stat_result
    handle: int  # an O_PATH descriptor, good until the next is asked for


def working_set(
    tree: Tree, path: bytes, alive: Callable[[], bool], *, still: bool = False
) -> Iterator[pb.WorkingSetReply]:
    """Files below `path` with the ranges that are cached, the last used first; then those read lately, whole.

    With `still` those only that nobody can write into.
    """
    look = _Look(tree, still=still)
    last = heapq.nlargest(min(SOON_FILES, WORKING_SET_FILES), _found(tree, path, alive))
    soon = [file for file in look.again(last) if file.cached]
    yield from _replies(soon)
    told = {file.path for file in soon}
    others = look.at(found for found in _found(tree, path, alive) if found.path not in told)
    yield from _replies(heapq.nlargest(WORKING_SET_FILES - len(soon), others))


def _replies(files: Iterable[_File]) -> Iterator[pb.WorkingSetReply]:
    reply = pb.WorkingSetReply()
    size = 0
    for file in files:
        wire = ranges_to_wire(file.path, file.version, tuple(file.extents))
        length = wire.ByteSize()
        if size and (size + length > PAGE_BYTES or reply.cached != file.cached):
            yield reply
            reply = pb.WorkingSetReply()
            size = 0
        reply.cached = file.cached
        reply.files.append(wire)
        size += length
    if size:
        yield reply


def _found(tree: Tree, path: bytes, alive: Callable[[], bool]) -> Iterator[_Found]:
    pending = [path]
    while pending and alive():
        directory = pending.pop()
        prefix = directory + b"/" if directory else b""
        try:
            for name, handle in tree.handles(directory):
                status = os.fstat(handle)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(prefix + name)
                elif stat.S_ISREG(status.st_mode) and status.st_size:
                    yield _Found(max(status.st_atime_ns, status.st_mtime_ns), prefix + name, status, handle)
        except TreeError:
            continue  # a hint has no failures


class _Look:
    """Looks at files of a tree, as long as there is room for extents."""

    def __init__(self, tree: Tree, *, still: bool) -> None:
        self._tree = tree
        self._still = still
        self._room = WORKING_SET_EXTENTS
        self._now = time.time_ns()

    def again(self, found: Iterable[_Found]) -> Iterator[_File]:
        """Those of `found` that are in use, some time after they were found."""
        for used, path, status, _ in found:
            try:
                with open_file(self._tree, path, None) as file:  # it may have been written to meanwhile
                    version, cached = file.version, file.cached(self._most)
                    if self._still and not file.still:
                        continue
            except TreeError:
                continue
            yield from self._used(used, path, version, status.st_atime_ns, cached)

    def at(self, found: Iterable[_Found]) -> Iterator[_File]:
        """Those of `found` that are in use, as they are found."""
        for used, path, status, handle in found:
            try:
                fd = reopened(handle)
            except OSError:
                continue
            try:
                cached = cached_extents(fd, status.st_size, self._most)
                still = not self._still or is_still(fd)
            finally:
                os.close(fd)
            if not still:
                continue
            yield from self._used(used, path, version_of(status), status.st_atime_ns, cached)

    @property
    def _most(self) -> int:
        return min(self._room, WORKING_SET_FILE_EXTENTS)

    def _used(self, used: int, path: bytes, version: Version, atime_ns: int, cached: list[Extent]) -> Iterator[_File]:
        if cached:
            self._room = max(1, self._room - len(cached))
            yield _File(True, used, path, version, cached)
        elif version.size and version.mtime_ns < atime_ns and self._now - atime_ns < _LATELY_NS:
            self._room = max(1, self._room - 1)
            yield _File(False, used, path, version, [Extent(0, version.size)])
