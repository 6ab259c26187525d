"""Which parts of an open file the kernel holds in its page cache.

cachestat(2), Linux 6.5, counts the cached pages of a range, so a file is halved until the answer is all or nothing.
Older kernels tell it page by page of a mapping, by mincore(2). Reads nothing, and brings nothing into the cache.
"""

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator

from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK, MIB

_CACHESTAT = 451  # the same number on every architecture
_MAPPED = 64 * MIB  # at a time; mincore gives a byte a page
_PAGE = mmap.PAGESIZE


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)
_FAILED = ctypes.c_void_p(-1).value


def cached_extents(fd: int, size: int, most: int) -> list[Extent]:
    """Chunks with a page in the cache, joined, ascending; at most `most` extents, those at the file's beginning.

    Empty where the kernel does not say: what it tells of others' files to who may not write them is no answer.
    """
    try:
        return _joined(_counted(fd, size), most)
    except OSError as error:
        if error.errno != errno.ENOSYS or not _may_ask(fd):
            return []
    try:
        return _joined(mapped(fd, size), most)
    except OSError:
        return []


def _joined(extents: Iterator[Extent], most: int) -> list[Extent]:
    found: list[Extent] = []
    for extent in extents:
        if found and found[-1].stop == extent.start:
            found[-1] = Extent(found[-1].start, extent.stop)
        elif len(found) == most:
            break
        else:
            found.append(extent)
    return found


def _counted(fd: int, size: int) -> Iterator[Extent]:
    pending = [Extent(0, size)]
    while pending:
        extent = pending.pop()
        count = _cachestat(fd, extent)
        if count == 0:
            continue
        if extent.length <= CHUNK or count * _PAGE >= extent.length:
            yield extent
            continue
        middle = extent.start + (extent.length // 2 + CHUNK - 1) // CHUNK * CHUNK
        pending += (Extent(middle, extent.stop), Extent(extent.start, middle))


def _cachestat(fd: int, extent: Extent) -> int:
    counts = _Counts()
    asked = _Range(extent.start, extent.length)
    if _libc.syscall(_CACHESTAT, fd, ctypes.byref(asked), ctypes.byref(counts), 0) != 0:
        raise OSError(ctypes.get_errno(), "cachestat")
    return int(counts.cached)


def _may_ask(fd: int) -> bool:
    """Whether mincore tells the truth; of files that one may not write it says that all is cached."""
    return os.geteuid() in (0, os.fstat(fd).st_uid) or os.access(f"/proc/self/fd/{fd}", os.W_OK)


def mapped(fd: int, size: int) -> Iterator[Extent]:
    """The same by mincore, not joined. Raises OSError."""
    for start in range(0, size, _MAPPED):
        length = min(_MAPPED, size - start)
        pages = ctypes.create_string_buffer(-(-length // _PAGE))
        address = _libc.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, fd, start)
        if address == _FAILED:
            raise OSError(ctypes.get_errno(), "mmap")
        try:
            if _libc.mincore(address, length, pages) != 0:
                raise OSError(ctypes.get_errno(), "mincore")
        finally:
            _libc.munmap(address, length)
        for at in range(0, length, CHUNK):
            part = pages.raw[at // _PAGE : (at + CHUNK) // _PAGE]
            if any(byte & 1 for byte in part):
                yield Extent(start + at, min(start + at + CHUNK, size))
