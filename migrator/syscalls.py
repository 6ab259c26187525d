"""The system calls that Python has no name for, or not yet: setns, mount, inotify.

They raise plain `OSError`. It must not know what they are used for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CLONE_NEWNET: Final = 0x40000000
SYS_PIDFD_GETFD: Final = 438  # the same on all architectures
MNT_DETACH: Final = 2
MS_REMOUNT: Final = 32
MS_BIND: Final = 4096
IN_CLOSE_WRITE: Final = 0x8

_IPPROTO_TCP, _TCP_INFO = 6, 11
_TCP_INFO_BYTES, _RECEIVED_AT = 136, 128  # of struct tcp_info, up to tcpi_bytes_received

_EVENT: Final = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


def setns(descriptor: int, kind: int) -> None:
    """Move the calling thread into a namespace."""
    _checked(_libc.setns(descriptor, kind), "setns")


def unshare(kind: int) -> None:
    """Move the calling thread into a new namespace."""
    _checked(_libc.unshare(kind), "unshare")


def pidfd_getfd(process: int, number: int) -> int:
    """A duplicate of a descriptor of another process, which is named by a pidfd."""
    return _checked(_libc.syscall(SYS_PIDFD_GETFD, process, number, 0), "pidfd_getfd")


def tcp_received(descriptor: int) -> int:
    """Bytes that have come over a TCP socket since its connection was made."""
    info = ctypes.create_string_buffer(_TCP_INFO_BYTES)
    size = ctypes.c_uint(_TCP_INFO_BYTES)
    _checked(_libc.getsockopt(descriptor, _IPPROTO_TCP, _TCP_INFO, info, ctypes.byref(size)), "getsockopt")
    return int.from_bytes(info.raw[_RECEIVED_AT : _RECEIVED_AT + 8], sys.byteorder)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    words = [os.fsencode(word) for word in (source, target, kind, options)]
    _checked(_libc.mount(words[0], words[1], words[2], ctypes.c_ulong(flags), words[3]), f"mount on {target}")


def unmount(target: str) -> None:
    """Take a mount out of the tree at once; it ends when its last user does."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def mount_points() -> list[str]:
    """Where something is mounted, in this mount namespace, in the order of mounting."""
    return [unescape(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]


class FuseAborts:
    """Means to fail all that waits in the FUSE mounts at a directory, also when they are mounted there no longer.

    A connection's number is given to the next mount, anybody's, as soon as it is gone. So the kernel's files for it are
    opened while it is mounted: they never mean another one.
    """

    def __init__(self, directory: str, control: str = "/sys/fs/fuse/connections") -> None:
        """To be closed by `close`. CONTROL: where the kernel's file system for it is mounted, if it is."""
        self._files: list[int] = []
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            words = line.split()
            kind = words[words.index("-") + 1]
            if unescape(words[4]) == directory and kind.partition(".")[0] in ("fuse", "fuseblk"):
                with contextlib.suppress(OSError):
                    path = f"{control}/{words[2].partition(':')[2]}/abort"
                    self._files.append(os.open(path, os.O_WRONLY | os.O_CLOEXEC))

    def __call__(self) -> None:
        for file in self._files:
            with contextlib.suppress(OSError):
                os.write(file, b"1")

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())


def mounts_below(directory: str) -> list[str]:
    """Mount points at or below a directory, the last mounted first: the order in which they can be unmounted."""
    place = os.path.realpath(directory)
    return [point for point in reversed(mount_points()) if point == place or point.startswith(place + "/")]


def unmount_below(directory: str) -> None:
    """Unmount everything at or below a directory; raises OSError if anything stays."""
    for point in mounts_below(directory):
        unmount(point)
    if left := mounts_below(directory):
        raise OSError(16, "still mounted", left[0])


def unescape(text: str) -> str:
    """A path as it is, from how the kernel writes it into tables."""
    for code, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(code, character)
    return text


class Watch:
    """inotify: names of the files of one directory that a writer has just closed."""

    def __init__(self, directory: str) -> None:
        """What is closed from now on is seen."""
        self.descriptor = _checked(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify")
        try:
            _checked(_libc.inotify_add_watch(self.descriptor, os.fsencode(directory), IN_CLOSE_WRITE), directory)
        except BaseException:
            os.close(self.descriptor)
            raise

    def names(self) -> Iterator[str]:
        """Those closed since the last call; does not wait. A name may come more than once."""
        while True:
            try:
                events = os.read(self.descriptor, 1 << 16)
            except BlockingIOError:
                return
            position = 0
            while position < len(events):
                _, _, _, length = _EVENT.unpack_from(events, position)
                position += _EVENT.size
                yield os.fsdecode(events[position : position + length].rstrip(b"\0"))
                position += length

    def close(self) -> None:
        """End."""
        os.close(self.descriptor)
