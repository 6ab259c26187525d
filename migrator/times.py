"""Modification times of directories in a container's root, read and set again.

Dumping and restoring make temporary entries in some; the container must not see that, nor a comparison with the source.
Everything goes by names in an opened root and never through a symbolic link, which could lead to the host's files.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping
from typing import Final

# Where CRIU makes temporary directories, to look below a container's mounts (its criu/mount.c, get_clean_mnt).
TEMPORARY: Final = ("/tmp", "/")


def read(root: str, paths: tuple[str, ...] = TEMPORARY) -> dict[str, int]:
    """Nanoseconds, by path in the container; what is no directory is left out."""
    found = {}
    with contextlib.suppress(OSError), _opened(root) as base:
        for path in paths:
            with contextlib.suppress(OSError):
                at = os.stat(_name(path), dir_fd=base, follow_symlinks=False)
                if stat.S_ISDIR(at.st_mode):
                    found[path] = at.st_mtime_ns
    return found


def know(root: str) -> None:
    """Have the entries of those directories known: on a root that is lazy itself, making one there waits for them."""
    for path in TEMPORARY:
        with contextlib.suppress(OSError):
            os.listdir(os.path.join(root, _name(path)))


def restore(root: str, times: Mapping[str, int]) -> None:
    """Set those that differ now."""
    for path, now in read(root, tuple(times)).items():
        if now != times[path]:
            with contextlib.suppress(OSError), _opened(root) as base:
                at = os.stat(_name(path), dir_fd=base, follow_symlinks=False)
                os.utime(_name(path), ns=(at.st_atime_ns, times[path]), dir_fd=base, follow_symlinks=False)


def _name(path: str) -> str:
    return path.strip("/") or "."


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
