"""The server's hand on the exported tree: names, attributes and descriptors, below the root only.

Knows nothing of gRPC or of who asks. Everything is opened through `openat`, so nothing outside
the export can be reached; no descriptor outlives the call or the `with` block that made it.

Mount points inside the export are not crossed: the export is what its own file system holds.
What lies beneath another mount cannot be reached, so a directory that is a mount point is
listed as an empty directory (with the mounted root's mode, owner and times, and the inode
number of the directory beneath), and any other mount point is left out.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from hashlib import blake2b

from voyfs.core.entry import Entry, Version
from voyfs.core.errors import ExportError
from voyfs.core.limits import DIRECTORY_ENTRIES, ENTRY_XATTR_BYTES
from voyfs.rpc.openat import open_below, open_regular, supported

_TIME_LIMIT = 2**63 - 1  # nanoseconds that the wire can express: the years 1678 to 2262


class Trouble(Enum):
    """Why the export does not give what was asked for."""

    CHANGED = "changed"
    MISSING = "missing"
    REFUSED = "refused"
    UNREADABLE = "unreadable"


class TreeError(Exception):
    """One path cannot be served; all others can."""

    def __init__(self, trouble: Trouble, detail: str) -> None:
        super().__init__(detail)
        self.trouble = trouble


class as_tree_errors:
    """Turns the system's errors into TreeErrors. By hand: there are several for each file, and a generator costs as
    much as a system call.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            trouble = Trouble.MISSING
        elif error.errno in (errno.ELOOP, errno.EXDEV, errno.ENAMETOOLONG, errno.EINVAL):
            trouble = Trouble.REFUSED
        else:
            trouble = Trouble.UNREADABLE
        raise TreeError(trouble, error.strerror or str(error)) from error


def _nanoseconds(time: int) -> int:
    return max(-_TIME_LIMIT, min(time, _TIME_LIMIT))


def version_of(status: os.stat_result) -> Version:
    """Times beyond what the wire can express are the nearest that it can."""
    return Version(
        status.st_ino,
        status.st_size,
        _nanoseconds(status.st_mtime_ns),
        _nanoseconds(status.st_ctime_ns),
    )


class Tree:
    """An exported directory. Safe to use from several threads."""

    def __init__(self, path: str | bytes) -> None:
        """Raises ExportError where `path` is no directory or the kernel is too old."""
        self.path = os.path.realpath(os.fsencode(path))
        shown = os.fsdecode(path)
        if not supported():
            raise ExportError(f"cannot export {shown}: openat2 is missing; it needs Linux 5.6 or later")
        if not os.path.isdir("/proc/self/fd"):
            raise ExportError(f"cannot export {shown}: /proc is not mounted; mount it first")
        try:
            self._root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except NotADirectoryError as error:
            raise ExportError(f"cannot export {shown}: it is not a directory") from error
        except OSError as error:
            raise ExportError(f"cannot export {shown}: {error.strerror}") from error
        self.export_id = self._identity()

    def close(self) -> None:
        os.close(self._root)

    @property
    def root(self) -> int:
        """An O_PATH descriptor of the root, good until `close`."""
        return self._root

    def _identity(self) -> bytes:
        """16 bytes: the same after a restart of the server or of the host."""
        digest = blake2b(digest_size=16, person=b"voyfs-export")
        digest.update(_host_identity() + b"\0" + self.path + b"\0")
        digest.update(str(os.fstat(self._root).st_ino).encode())
        return digest.digest()

    def open(self, path: bytes, flags: int) -> int:
        """A descriptor of `path` below the root, for the caller to close. Raises OSError."""
        return open_below(self._root, path, flags)

    def open_regular(self, path: bytes) -> int | None:
        """A descriptor for reading the regular file `path`, None for anything else. Raises OSError."""
        return open_regular(self._root, path)

    def stat(self, path: bytes) -> Entry:
        """The entry at `path` as it is now, without a name. Raises TreeError."""
        with as_tree_errors():
            try:
                fd = self.open(path, os.O_PATH)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                entry = self._mount_point(path)
            else:
                try:
                    entry = _described(fd, b"")
                finally:
                    os.close(fd)
        if entry is None:
            raise TreeError(Trouble.MISSING, "removed meanwhile")
        return entry

    @contextmanager
    def directory(self, path: bytes, inode: int) -> Iterator[tuple[int, Iterator[Entry]]]:
        """The inode of the directory `path`, and its entries; each name comes once.

        `inode` is the one expected, 0 for any. Raises TreeError, also while iterating.
        """
        beneath = None
        with as_tree_errors():
            try:
                fd = self._open_directory(path)
            except OSError as error:
                beneath = self._mount_point(path) if error.errno == errno.EXDEV else None
                if beneath is None or not beneath.is_directory:
                    raise
        if beneath is not None:
            _expect(inode, beneath.version.inode)
            yield beneath.version.inode, iter(())
            return
        try:
            with as_tree_errors():
                found = os.fstat(fd).st_ino
            _expect(inode, found)
            yield found, _entries(fd)
        finally:
            os.close(fd)

    def handles(self, path: bytes) -> Iterator[tuple[bytes, int]]:
        """What is in the directory `path`, and on no other file system: names, and O_PATH descriptors that are good
        until the next is asked for. Raises TreeError.
        """
        with as_tree_errors():
            fd = self._open_directory(path)
            try:
                for name, _, handle in _handles(fd):
                    if handle is not None:
                        yield name, handle
            finally:
                os.close(fd)

    def _open_directory(self, path: bytes) -> int:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
        try:
            return self.open(path, flags | os.O_NOATIME)
        except PermissionError:  # O_NOATIME is for the owner only
            return self.open(path, flags)

    def _mount_point(self, path: bytes) -> Entry | None:
        """What is told of the mount point `path`; OSError(EXDEV) for a path behind one."""
        parent, _, name = path.rpartition(b"/")
        fd = self._open_directory(parent)
        try:
            with os.scandir(fd) as entries:
                for entry in entries:
                    if os.fsencode(entry.name) == name:
                        return _mounted(fd, b"", name, entry.inode())
        finally:
            os.close(fd)
        return None


def _expect(inode: int, found: int) -> None:
    if inode not in (0, found):
        raise TreeError(Trouble.CHANGED, "another directory has taken this name")


def _host_identity() -> bytes:
    for file in ("/etc/machine-id", "/var/lib/dbus/machine-id"):
        try:
            with open(file, "rb") as lines:
                identity = lines.readline().strip()
        except OSError:
            continue
        if identity:
            return identity
    return socket.gethostname().encode()


def _entries(directory: int) -> Iterator[Entry]:
    """Entries of an open directory."""
    with as_tree_errors():
        for name, inode, handle in _handles(directory):
            if handle is None:
                entry = _mounted(directory, name, name, inode)
            else:
                entry = _described(handle, name)
            if entry is not None:
                yield entry


def _handles(directory: int) -> Iterator[tuple[bytes, int, int | None]]:
    """(name, inode, O_PATH descriptor until the next) of all in an open directory; None for a mount point.

    What vanishes meanwhile is left out. Raises OSError, TreeError.
    """
    # A name removed and made again while the directory is read may be returned twice.
    seen: set[str] = set()
    with os.scandir(directory) as found:
        for item in found:
            if item.name in seen:
                continue
            seen.add(item.name)
            if len(seen) > DIRECTORY_ENTRIES:
                raise TreeError(Trouble.UNREADABLE, f"more than {DIRECTORY_ENTRIES} entries")
            name = os.fsencode(item.name)
            try:
                handle = open_below(directory, name, os.O_PATH)
            except FileNotFoundError:
                continue
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                yield name, item.inode(), None
                continue
            try:
                yield name, item.inode(), handle
            finally:
                os.close(handle)


def _described(handle: int, name: bytes) -> Entry | None:
    """The entry behind an O_PATH descriptor; None if removed meanwhile."""
    status = os.fstat(handle)
    if status.st_nlink == 0:
        return None
    target = os.readlink(b"", dir_fd=handle) if stat.S_ISLNK(status.st_mode) else b""
    return _entry(name, status, target, _xattrs(handle))


def _entry(name: bytes, status: os.stat_result, target: bytes, xattrs: tuple[tuple[bytes, bytes], ...]) -> Entry:
    device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return Entry(
        name=name,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=status.st_rdev if device else 0,
        nlink=status.st_nlink,
        blocks=status.st_blocks,
        atime_ns=_nanoseconds(status.st_atime_ns),
        device=status.st_dev,
        version=version_of(status),
        target=target,
        xattrs=xattrs,
    )


def _xattrs(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    """All extended attributes of the O_PATH descriptor `fd`; none where unsupported."""
    path = f"/proc/self/fd/{fd}"  # the magic link leads to the object itself, even to a symlink
    try:
        names = os.listxattr(path)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    found = []
    room = ENTRY_XATTR_BYTES
    for name in names:
        try:
            value = os.getxattr(path, name)
        except OSError as error:
            if error.errno in (errno.ENODATA, errno.ENOTSUP):  # ENODATA: removed meanwhile
                continue
            raise
        raw = os.fsencode(name)
        room -= len(raw) + len(value)
        if room < 0:
            raise TreeError(Trouble.UNREADABLE, f"more than {ENTRY_XATTR_BYTES} bytes of extended attributes")
        found.append((raw, value))
    return tuple(found)


def _mounted(directory: int, name: bytes, path: bytes, inode: int) -> Entry | None:
    """What is told of the mount point `path` in `directory`, whose own inode is `inode`."""
    status = os.stat(path, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISDIR(status.st_mode):
        return None
    own = os.fstat(directory)
    return Entry(
        name=name,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        rdev=0,
        nlink=2,
        blocks=0,
        atime_ns=_nanoseconds(status.st_atime_ns),
        device=own.st_dev,
        version=Version(inode, 0, _nanoseconds(status.st_mtime_ns), _nanoseconds(status.st_ctime_ns)),
    )
