"""openat2(2): opening below a directory and nowhere else.

The kernel itself refuses to leave the directory: through "..", absolute names, symbolic links
(none is followed, in no component), magic links or mount points. So no check of ours can be
raced. Needs Linux 5.6; knows nothing of exports or of what is opened.
"""

import ctypes
import errno
import functools
import os
import stat

_OPENAT2 = 437  # the same number on every architecture, as all system calls since 5.1
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08

_BELOW = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV

_PATH_MAX = 4096  # including the NUL

# Renames elsewhere make the kernel give up with EAGAIN now and then; it advises to try again.
_ATTEMPTS = 64


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_HOW_BYTES = ctypes.sizeof(_OpenHow)

_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(_OpenHow),
    ctypes.c_size_t,
)


@functools.cache
def _how(flags: int, resolve: int) -> _OpenHow:
    return _OpenHow(flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0, resolve)


def _open(directory: int, path: bytes, flags: int, resolve: int) -> int:
    how = ctypes.byref(_how(flags, resolve))
    for _ in range(_ATTEMPTS):
        fd: int = _syscall(_OPENAT2, directory, path, how, _HOW_BYTES)
        if fd >= 0:
            return fd
        number = ctypes.get_errno()
        if number not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(number, os.strerror(number), os.fsdecode(path))


def supported() -> bool:
    """Whether this kernel (and what filters its system calls) has openat2."""
    try:
        os.close(_open(-100, b"/", os.O_PATH | os.O_DIRECTORY, 0))  # -100: AT_FDCWD
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def open_below(root: int, path: bytes, flags: int) -> int:
    """A new descriptor of `path` below the directory `root`; the caller closes it.

    `path` is relative and has no "" or ".." components, except that "" is the root itself. It
    may be longer than PATH_MAX: it is then opened in steps, each below the one before.
    Raises OSError: ELOOP for a symbolic link on the way, EXDEV for a mount point.
    """
    if b"\0" in path:  # the kernel would see only what stands before it
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    directory = root
    try:
        while len(path) >= _PATH_MAX:
            cut = path.rfind(b"/", 0, _PATH_MAX)
            if cut <= 0:
                raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
            step = _open(directory, path[:cut], os.O_PATH | os.O_DIRECTORY, _BELOW)
            if directory != root:
                os.close(directory)
            directory = step
            path = path[cut + 1 :]
        return _open(directory, path or b".", flags, _BELOW)
    finally:
        if directory != root:
            os.close(directory)


def open_regular(root: int, path: bytes) -> int | None:
    """As `open_below`, for reading; None for what is no regular file, which is not touched.

    Merely opening a device or a fifo can have effects, so it is opened without access first.
    """
    handle = open_below(root, path, os.O_PATH)
    try:
        return reopened(handle) if stat.S_ISREG(os.fstat(handle).st_mode) else None
    finally:
        os.close(handle)


def reopened(handle: int) -> int:
    """A new descriptor for reading the regular file behind an O_PATH descriptor. Raises OSError."""
    path = f"/proc/self/fd/{handle}"
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(path, flags | os.O_NOATIME)
    except PermissionError:  # O_NOATIME is for the owner only
        return os.open(path, flags)
