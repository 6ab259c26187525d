"""What of an exported tree is in use, told from the source's page cache. The server's side only."""

import heapq
import stat
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from voyfs.core.entry import Entry, Version
from voyfs.core.extents import Extent
from voyfs.core.limits import PAGE_BYTES, WORKING_SET_EXTENTS, WORKING_SET_FILE_EXTENTS, WORKING_SET_FILES
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.reader import open_file
from voyfs.rpc.tree import Tree, TreeError
from voyfs.rpc.wire import ranges_to_wire

# The kernel notes a read once a day at least (relatime).
_LATELY_NS = 86_400 * 1_000_000_000


class _File(NamedTuple):
    """One file of the working set, the more useful the greater."""

    cached: bool
    used_ns: int  # when it was last read or written, as exactly as the kernel notes it
    path: bytes
    version: Version
    extents: list[Extent]


def working_set(tree: Tree, path: bytes, alive: Callable[[], bool]) -> Iterator[pb.WorkingSetReply]:
    """Files below `path` with the ranges that are cached, the last used first; then those read lately, whole."""
    reply = pb.WorkingSetReply()
    size = 0
    for file in heapq.nlargest(WORKING_SET_FILES, _files(tree, path, alive)):
        wire = ranges_to_wire(file.path, file.version, tuple(file.extents))
        length = wire.ByteSize()
        if size and (size + length > PAGE_BYTES or reply.cached != file.cached):
            yield reply
            reply = pb.WorkingSetReply()
            size = 0
        reply.cached = file.cached
        reply.files.append(wire)
        size += length
    yield reply


def _files(tree: Tree, path: bytes, alive: Callable[[], bool]) -> Iterator[_File]:
    pending = [path]
    room = WORKING_SET_EXTENTS
    now = time.time_ns()
    while pending and alive():
        directory = pending.pop()
        prefix = directory + b"/" if directory else b""
        try:
            with tree.directory(directory, 0) as (_, entries):
                for entry in entries:
                    if stat.S_ISDIR(entry.mode):
                        pending.append(prefix + entry.name)
                    elif entry.is_file and entry.size:
                        file = _file(tree, prefix + entry.name, entry, min(room, WORKING_SET_FILE_EXTENTS), now)
                        if file is not None:
                            room = max(1, room - len(file.extents))
                            yield file
        except TreeError:
            continue  # a hint has no failures


def _file(tree: Tree, path: bytes, entry: Entry, most: int, now: int) -> _File | None:
    try:
        with open_file(tree, path, entry.version) as file:
            cached = file.cached(most)
    except TreeError:
        return None
    used = max(entry.atime_ns, entry.version.mtime_ns)
    if cached:
        return _File(True, used, path, entry.version, cached)
    if entry.version.mtime_ns < entry.atime_ns and now - entry.atime_ns < _LATELY_NS:
        return _File(False, used, path, entry.version, [Extent(0, entry.size)])
    return None
