"""fanotify(7): what happens on a whole file system, told by handles of directories and by names. Linux 5.17.

Handles outlive renames and cost nothing to keep. Knows nothing of exports or of what events are for.
"""

import ctypes
import errno
import os
import struct
import time
from collections.abc import Iterator

from voyfs.core.touched import Event

_FAN_CLOEXEC = 0x01
_FAN_NONBLOCK = 0x02
_FAN_REPORT_FID = 0x200
_FAN_REPORT_DFID_NAME = 0xC00
_FAN_REPORT_TARGET_FID = 0x1000  # the child's handle with every event on an entry
_FAN_MARK_ADD = 0x01
_FAN_MARK_FILESYSTEM = 0x100

_MODIFY = 0x02
_ATTRIB = 0x04
_CLOSE_WRITE = 0x08
_MOVED = 0x40 | 0x80
_CREATE = 0x100
_DELETE = 0x200
_OVERFLOW = 0x4000
_ONDIR = 0x40000000
_MASK = _MODIFY | _ATTRIB | _CLOSE_WRITE | _MOVED | _CREATE | _DELETE | _ONDIR

_INFO_FID = 1
_INFO_DFID_NAME = 2

_EVENT = struct.Struct("=IBBHQii")  # length, version, reserved, length of this part, mask, descriptor, pid
_INFO = struct.Struct("=BBH8xIi")  # kind, pad, length, file system, bytes and type of the handle
_VERSION = 3
_READ_BYTES = 256 * 1024
_HANDLE_BYTES = 128  # MAX_HANDLE_SZ
_AT_EMPTY_PATH = 0x1000

# What is being removed at this very moment gives ENOMEM now and then, and ESTALE right after.
_ATTEMPTS = 10
_NAP_SECONDS = 0.001

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fanotify_mark.argtypes = (ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int, ctypes.c_char_p)


def watch(directory: int) -> int:
    """A non-blocking descriptor that tells of changes on the file system of the descriptor `directory`.

    The kernel keeps as many events as fs.fanotify.max_queued_events says, then drops. Raises OSError where kernel, file
    system or rights do not allow it.
    """
    flags = _FAN_CLOEXEC | _FAN_NONBLOCK | _FAN_REPORT_FID | _FAN_REPORT_DFID_NAME | _FAN_REPORT_TARGET_FID
    group: int = _libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC)
    if group < 0:
        raise _error()
    here = b"/proc/self/fd/%d/." % directory
    if _libc.fanotify_mark(group, _FAN_MARK_ADD | _FAN_MARK_FILESYSTEM, _MASK, -1, here) != 0:
        error = _error()
        os.close(group)
        raise error
    return group


def read(group: int) -> Iterator[Event]:
    """All events that are there now, in order. Raises OSError for what is not understood."""
    while True:
        try:
            data = os.read(group, _READ_BYTES)
        except BlockingIOError:
            return
        yield from events(data)


def events(data: bytes) -> Iterator[Event]:
    """What one read(2) gave. Raises OSError(EPROTO) for what is not understood."""
    at = 0
    while at < len(data):
        length, version, _, head, mask, _, _ = _EVENT.unpack_from(data, at)
        if version != _VERSION or length < head:
            raise OSError(errno.EPROTO, "events of an unknown kind")
        directory = child = None
        name = b""
        info = at + head
        at += length
        while info < at:
            kind, _, size, handle_bytes, _ = _INFO.unpack_from(data, info)
            start = info + _INFO.size
            handle = data[start - 8 : start + handle_bytes]  # with its size and type, as the kernel takes it back
            if kind == _INFO_DFID_NAME:
                directory = handle
                name = data[start + handle_bytes : info + size].rstrip(b"\0")
            elif kind == _INFO_FID:
                child = handle
            info += size
        moves = bool(mask & _ONDIR and mask & _MOVED)
        yield Event(directory, b"" if name == b"." else name, child, moves, bool(mask & _OVERFLOW))


def handle_of(directory: int) -> bytes:
    """The handle of the open `directory`. Raises OSError."""
    handle = ctypes.create_string_buffer(struct.pack("=Ii", _HANDLE_BYTES, 0), 8 + _HANDLE_BYTES)
    mount = ctypes.c_int()
    if _libc.name_to_handle_at(directory, b"", handle, ctypes.byref(mount), _AT_EMPTY_PATH) != 0:
        raise _error()
    return handle.raw[: 8 + struct.unpack_from("=I", handle.raw)[0]]


def open_handle(directory: int, handle: bytes) -> int:
    """An O_PATH descriptor of what `handle` means on the mount of `directory`.

    Raises OSError: ESTALE when it is no more, EPERM without the right to.
    """
    for _ in range(_ATTEMPTS):
        descriptor: int = _libc.open_by_handle_at(directory, handle, os.O_PATH | os.O_CLOEXEC)
        if descriptor >= 0:
            return descriptor
        if ctypes.get_errno() != errno.ENOMEM:
            break
        time.sleep(_NAP_SECONDS)
    raise _error()


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
