"""What the kernel offers and Python's `os` does not."""

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # of mallopt(3)
_MMAP_THRESHOLD = 32 << 20  # the most that it takes: half of a thread's arena
_ARENAS = 2  # each may keep what it freed; more of them would only avoid contention

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
MNT_FORCE = 1
MNT_DETACH = 2


def renameat2(from_directory: int, name: bytes, to_directory: int, new: bytes, flags: int) -> None:
    """renameat2(2): renames with RENAME_NOREPLACE or RENAME_EXCHANGE. Raises OSError."""
    if _libc.renameat2(from_directory, name, to_directory, new, flags) != 0:
        _raise(name)


def syncfs(descriptor: int) -> None:
    """syncfs(2): makes everything of the file system behind `descriptor` durable."""
    if _libc.syncfs(descriptor) != 0:
        _raise(b"syncfs")


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes) -> None:
    """mount(2). Raises OSError."""
    if _libc.mount(source, target, kind, flags, data) != 0:
        _raise(target)


def umount(target: bytes, flags: int) -> None:
    """umount2(2). Raises OSError."""
    if _libc.umount2(target, flags) != 0:
        _raise(target)


def keep_freed_memory(size: int) -> None:
    """From now on malloc keeps up to `size` bytes of freed memory, per arena, and takes large blocks from it as well.

    Else each block of a MiB is new memory of the kernel, whose pages are cleared and mapped one by one: that costs more
    than to fill them. (To be called before there are threads.)
    """
    _libc.mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD)
    _libc.mallopt(_M_TRIM_THRESHOLD, size)
    _libc.mallopt(_M_ARENA_MAX, _ARENAS)


def boot_id() -> str:
    """Names this boot of the machine: another one means that the page cache of the last is gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _raise(name: bytes) -> None:
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error), os.fsdecode(name))
