"""Random operations on two trees at once, that must not tell one from the other.

An operation is a function of a root; it is called for the mount, then for the plain directory, and
must give the same value or the same errno. Everything is chosen from `choose` (a seeded generator, or
one that Hypothesis records and shrinks) and from the plain directory's state. The last steps are
part of the failure. The plain directory is at any time the model of what the mount acknowledged.
"""

import errno
import mmap
import os
import random
import stat
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.trees import ACCESS_ACL, CAPABILITY, DEFAULT_ACL
from voyfs.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2

# Few names, so that operations meet each other's work.
LONGEST = b"x" * 255
NAMES = [b"a", b"b", b"c", b"sub", b"etc", b"f3", b"link0", LONGEST, b"\xff\xfe", b"sp ace\n"]
AT_FDCWD = -100
_CHUNK = 131_072


# What a call on a mount says whose daemon and supervisor are gone.
_CUT = (errno.ENOTCONN, errno.ECONNABORTED)


class Cut(Exception):
    """The mount was taken away under a call: whether it was carried out is not known."""

    def __init__(self, on_plain: Callable[[], None]) -> None:
        """`on_plain` does on the plain directory what the call was to do."""
        super().__init__("the mount is gone")
        self.on_plain = on_plain


class Workload:
    # how often, and the method's name
    OPERATIONS = (
        (6, "create"),
        (12, "write"),
        (10, "read"),
        (3, "append"),
        (8, "truncate"),
        (8, "rename"),
        (2, "rename_exchange"),
        (2, "rename_noreplace"),
        (6, "unlink"),
        (3, "rmdir"),
        (4, "mkdir"),
        (4, "link"),
        (2, "symlink"),
        (2, "mknod"),
        (3, "chmod"),
        (3, "chown"),
        (3, "utime"),
        (4, "setxattr"),
        (2, "removexattr"),
        (3, "xattrs"),
        (4, "open"),
        (6, "use"),
        (3, "close"),
        (1, "fsync"),
        (4, "mmap"),
        (4, "listdir"),
        (6, "stat"),
        (2, "open_truncate"),
        (2, "readlink"),
        (1, "remove_tree"),
    )

    def __init__(self, mount: Path, plain: Path, choose: random.Random) -> None:
        self.choose = choose
        self._roots = (os.fsencode(mount), os.fsencode(plain))
        self.mortal = False  # whether the mount may be taken away
        self._handles: dict[int, tuple[int, int]] = {}
        self._slot = 0
        self._trace: deque[str] = deque(maxlen=25)
        self.done: Counter[str] = Counter()
        self.operations: list[tuple[int, Callable[[], None]]] = [
            (weight, getattr(self, name)) for weight, name in self.OPERATIONS
        ]

    # -- running ----------------------------------------------------------------------------

    def run(self, steps: int) -> None:
        weights = [weight for weight, _ in self.operations]
        for _ in range(steps):
            (operation,) = self.choose.choices([call for _, call in self.operations], weights)
            operation()

    def finish(self) -> None:
        for pair in self._handles.values():
            for descriptor in pair:
                os.close(descriptor)
        self._handles.clear()

    def both(self, what: str, call: Callable[[bytes], Any]) -> Any:
        return self._compared(what, call, *self._roots)

    def _both_open(self, what: str, slot: int, call: Callable[[int], Any]) -> None:
        self._compared(what, call, *self._handles[slot])

    def _compared(self, what: str, call: Callable[[Any], Any], on_mount: Any, on_plain: Any) -> Any:
        self._trace.append(what)
        self.done[what.split(" ", 1)[0]] += 1
        try:
            mount = self._result(call, on_mount)
        except ConnectionError as error:
            raise Cut(lambda: self._result(call, on_plain)) from error
        if self.mortal:
            self._require_mount(call, on_plain)
        plain = self._result(call, on_plain)
        if mount != plain:
            steps = "\n  ".join(self._trace).replace(LONGEST.decode(), "LONGEST")
            raise AssertionError(f"the mount gave {_shown(mount)}, the directory {_shown(plain)}, after\n  {steps}")
        return plain

    def _require_mount(self, call: Callable[[Any], Any], on_plain: Any) -> None:
        """Raises Cut when the mount is gone: what the call says may be true of its first steps only."""
        try:
            os.statvfs(self._roots[0])
        except OSError as error:
            raise Cut(lambda: self._result(call, on_plain)) from error

    @staticmethod
    def _result(call: Callable[[Any], Any], argument: Any) -> Any:
        """What `call` gives, or the name of its errno. Raises ConnectionError when the mount is gone."""
        try:
            return call(argument)
        except OSError as error:
            if error.errno in _CUT or isinstance(error, ConnectionError):
                raise ConnectionError from error
            return errno.errorcode[error.errno or 0]

    # -- choosing ---------------------------------------------------------------------------

    def _entries(self) -> list[bytes]:
        """Everything in the plain tree, as it is now."""
        found = [b"."]
        waiting = [b""]
        base = self._roots[1]
        while waiting:
            at = waiting.pop()
            for entry in sorted(os.scandir(os.path.join(base, at)), key=lambda entry: entry.name):
                path = os.path.join(at, entry.name)
                found.append(path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
        return found

    def _path(self, wanted: Callable[[int], bool] = lambda mode: True, rate: float = 0.9) -> bytes:
        """Mostly an existing entry with a mode that is `wanted`, sometimes anything."""
        entries = self._entries()
        if self.choose.random() < rate:
            fitting = [path for path in entries if wanted(os.lstat(os.path.join(self._roots[1], path)).st_mode)]
            if fitting:
                return self.choose.choice(fitting)
        return os.path.join(self.choose.choice(entries), self.choose.choice(NAMES))

    def _file(self) -> bytes:
        return self._path(stat.S_ISREG)

    def _new(self) -> bytes:
        """A path in a directory, free or not."""
        return os.path.join(self._path(stat.S_ISDIR, 1.0), self.choose.choice(NAMES))

    def _offset(self) -> int:
        base = self.choose.choice((0, 0, 1, 2, 5, 16, 30)) * _CHUNK
        return max(0, base + self.choose.choice((0, 0, 1, -1, 17, 4096, 70_000)))

    def _data(self) -> bytes:
        size = self.choose.choice((1, 10, 4096, 5000, _CHUNK - 1, _CHUNK, _CHUNK + 1, 3 * _CHUNK))
        return self._bytes(size)

    def _bytes(self, size: int) -> bytes:
        """Drawn as one number, so that a failure can be shrunk."""
        return random.Random(self.choose.randrange(1 << 16)).randbytes(size)

    # -- operations -------------------------------------------------------------------------

    def create(self) -> None:
        path, mode, data = self._new(), self.choose.choice((0o644, 0o600, 0o4755, 0o666)), self._data()
        flags = os.O_RDWR | os.O_CREAT | self.choose.choice((0, os.O_EXCL, os.O_TRUNC))

        def call(root: bytes) -> int:
            descriptor = os.open(os.path.join(root, path), flags | os.O_NONBLOCK, mode)
            try:
                return os.write(descriptor, data)
            finally:
                os.close(descriptor)

        if (
            not stat.S_ISFIFO(self._mode(path))
            and not stat.S_ISCHR(self._mode(path))
            and not stat.S_ISBLK(self._mode(path))
        ):
            self.both(f"create {path!r} {flags:o} {len(data)}", call)

    def _mode(self, path: bytes) -> int:
        try:
            return os.lstat(os.path.join(self._roots[1], path)).st_mode
        except OSError:
            return 0

    def _with(self, what: str, path: bytes, flags: int, use: Callable[[int], Any]) -> None:
        def call(root: bytes) -> Any:
            descriptor = os.open(os.path.join(root, path), flags | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                return use(descriptor)
            finally:
                os.close(descriptor)

        if stat.S_ISREG(self._mode(path)) or not self._mode(path):
            self.both(f"{what} {path!r}", call)

    def write(self) -> None:
        offset, data = self._offset(), self._data()
        self._with(f"write {offset}+{len(data)}", self._file(), os.O_WRONLY, lambda fd: os.pwrite(fd, data, offset))

    def append(self) -> None:
        data = self._data()
        self._with(f"append {len(data)}", self._file(), os.O_WRONLY | os.O_APPEND, lambda fd: os.write(fd, data))

    def read(self) -> None:
        offset, size = self._offset(), self.choose.choice((1, 100, 4096, _CHUNK, 1_000_000))
        self._with(f"read {offset}+{size}", self._file(), os.O_RDONLY, lambda fd: os.pread(fd, size, offset))

    def truncate(self) -> None:
        size = self._offset()
        self._with(f"truncate {size}", self._file(), os.O_RDWR, lambda fd: os.ftruncate(fd, size))

    def open_truncate(self) -> None:
        self._with("open-truncate", self._file(), os.O_RDWR | os.O_TRUNC, lambda fd: os.fstat(fd).st_size)

    def fsync(self) -> None:
        self._with("fsync", self._file(), os.O_RDWR, os.fsync)

    def mmap(self) -> None:
        offset, data = self._offset(), self._bytes(self.choose.choice((1, 100, 5000)))
        shared = self.choose.random() < 0.7

        def use(fd: int) -> bytes:
            size = os.fstat(fd).st_size
            if size < offset + len(data):
                return b"too short"
            flags = mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE
            with mmap.mmap(fd, size, flags) as view:
                before = view[offset : offset + len(data)]
                view[offset : offset + len(data)] = data
                if shared:
                    view.flush()
                return before + os.pread(fd, len(data), offset)

        self._with(f"mmap {offset}+{len(data)} {'shared' if shared else 'private'}", self._file(), os.O_RDWR, use)

    def rename(self) -> None:
        self._rename("rename", 0)

    def rename_exchange(self) -> None:
        self._rename("exchange", RENAME_EXCHANGE)

    def rename_noreplace(self) -> None:
        self._rename("noreplace", RENAME_NOREPLACE)

    def _rename(self, what: str, flags: int) -> None:
        old = self._path()
        new = self.choose.choice((self._new, self._path))()
        self.both(
            f"{what} {old!r} {new!r}",
            lambda root: renameat2(AT_FDCWD, os.path.join(root, old), AT_FDCWD, os.path.join(root, new), flags),
        )

    def unlink(self) -> None:
        path = self._path(lambda mode: not stat.S_ISDIR(mode))
        self.both(f"unlink {path!r}", lambda root: os.unlink(os.path.join(root, path)))

    def rmdir(self) -> None:
        path = self._path(stat.S_ISDIR)
        if path != b".":
            self.both(f"rmdir {path!r}", lambda root: os.rmdir(os.path.join(root, path)))

    def mkdir(self) -> None:
        path, mode = self._new(), self.choose.choice((0o755, 0o700, 0o2775, 0o1777))
        self.both(f"mkdir {path!r} {mode:o}", lambda root: os.mkdir(os.path.join(root, path), mode))

    def remove_tree(self) -> None:
        path = self._path(stat.S_ISDIR)
        if path.count(b"/") < 3:
            return

        def stop(error: OSError) -> None:
            raise error

        def call(root: bytes) -> list[str]:
            failures = []
            for at, directories, files in os.walk(os.path.join(root, path), topdown=False, onerror=stop):
                for name in sorted(files):
                    failures.append(str(self._result(os.unlink, os.path.join(at, name))))
                for name in sorted(directories):
                    full = os.path.join(at, name)
                    failures.append(str(self._result(os.unlink if os.path.islink(full) else os.rmdir, full)))
            return sorted(failures)

        self.both(f"remove-tree {path!r}", call)

    def link(self) -> None:
        old, new = self._path(), self._new()
        self.both(
            f"link {old!r} {new!r}",
            lambda root: os.link(os.path.join(root, old), os.path.join(root, new), follow_symlinks=False),
        )

    def symlink(self) -> None:
        path, target = self._new(), self.choose.choice((b"a", b"../b", b"/nowhere", b"t" * 4000))
        self.both(f"symlink {path!r} {target[:10]!r}", lambda root: os.symlink(target, os.path.join(root, path)))

    def readlink(self) -> None:
        path = self._path(stat.S_ISLNK)
        self.both(f"readlink {path!r}", lambda root: os.readlink(os.path.join(root, path)))

    def mknod(self) -> None:
        path = self._new()
        kind = self.choose.choice((stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK, stat.S_IFREG))
        self.both(
            f"mknod {path!r} {kind:o}",
            lambda root: os.mknod(os.path.join(root, path), kind | 0o640, os.makedev(1, 3)),
        )

    def chmod(self) -> None:
        path = self._path(lambda mode: not stat.S_ISLNK(mode))
        mode = self.choose.choice((0o644, 0o755, 0o4711, 0o2750, 0o1777, 0o600))
        if not stat.S_ISLNK(self._mode(path)):
            self.both(f"chmod {path!r} {mode:o}", lambda root: os.chmod(os.path.join(root, path), mode))

    def chown(self) -> None:
        path, uid, gid = self._path(), self.choose.choice((-1, 0, 1234)), self.choose.choice((-1, 0, 77))
        self.both(
            f"chown {path!r} {uid}:{gid}",
            lambda root: os.chown(os.path.join(root, path), uid, gid, follow_symlinks=False),
        )

    def utime(self) -> None:
        path = self._path()
        ns = tuple(self.choose.choice((1, 999_999_999, -1_000_000_007, 10**18 + 3, 4 * 10**18 + 9)) for _ in "am")

        def call(root: bytes) -> tuple[int, int]:
            full = os.path.join(root, path)
            os.utime(full, ns=(ns[0], ns[1]), follow_symlinks=False)
            status = os.lstat(full)
            return status.st_atime_ns, status.st_mtime_ns

        self.both(f"utime {path!r} {ns}", call)

    def setxattr(self) -> None:
        path = self._path(rate=0.97)
        name, value = self.choose.choice(
            (
                ("user.a", b"1"),
                ("user.a", b""),
                ("user.long", b"v" * 1500),
                ("trusted.b", b"2"),
                ("security.capability", CAPABILITY),
                ("system.posix_acl_access", ACCESS_ACL),
                ("system.posix_acl_default", DEFAULT_ACL),
                ("nonsense", b""),
            )
        )
        flags = self.choose.choice((0, 0, os.XATTR_CREATE, os.XATTR_REPLACE))
        self.both(
            f"setxattr {path!r} {name} {flags}",
            lambda root: os.setxattr(os.path.join(root, path), name, value, flags, follow_symlinks=False),
        )

    def removexattr(self) -> None:
        path = self._path(rate=0.97)
        name = self.choose.choice(("user.a", "user.text", "security.capability", "system.posix_acl_access"))
        self.both(
            f"removexattr {path!r} {name}",
            lambda root: os.removexattr(os.path.join(root, path), name, follow_symlinks=False),
        )

    def xattrs(self) -> None:
        path = self._path()

        def call(root: bytes) -> dict[str, bytes]:
            full = os.path.join(root, path)
            names = os.listxattr(full, follow_symlinks=False)
            return {name: os.getxattr(full, name, follow_symlinks=False) for name in names}

        self.both(f"xattrs {path!r}", call)

    def listdir(self) -> None:
        path = self._path(stat.S_ISDIR)
        self.both(f"listdir {path!r}", lambda root: sorted(os.listdir(os.path.join(root, path))))

    def stat(self) -> None:
        path = self._path()

        def call(root: bytes) -> tuple[int, ...]:
            status = os.lstat(os.path.join(root, path))
            size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            return status.st_mode, status.st_nlink, status.st_uid, status.st_gid, status.st_rdev, size

        self.both(f"stat {path!r}", call)

    # -- files that stay open ---------------------------------------------------------------

    def open(self) -> None:
        path = self._file()
        if len(self._handles) > 12 or not stat.S_ISREG(self._mode(path)):
            return
        flags = self.choose.choice((os.O_RDONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR | os.O_APPEND))
        opened: list[int] = []

        def call(root: bytes) -> None:
            opened.append(os.open(os.path.join(root, path), flags))

        self.both(f"open {path!r} as {self._slot}", call)
        self._handles[self._slot] = (opened[0], opened[1])
        self._slot += 1

    def use(self) -> None:
        if not self._handles:
            return
        slot = self.choose.choice(sorted(self._handles))
        offset, data = self._offset(), self._data()
        size = self._offset()

        def status(fd: int) -> tuple[int, ...]:
            found = os.fstat(fd)
            return found.st_mode, found.st_nlink, found.st_size, found.st_uid

        name, call = self.choose.choice(
            (
                ("pread", lambda fd: os.pread(fd, len(data), offset)),
                ("pwrite", lambda fd: os.pwrite(fd, data, offset)),
                ("ftruncate", lambda fd: os.ftruncate(fd, size)),
                ("fstat", status),
                ("fsync", os.fsync),
                ("fchmod", lambda fd: os.fchmod(fd, 0o640)),
                ("fgetxattr", lambda fd: sorted(os.listxattr(fd))),
            )
        )
        self._both_open(f"{name} {slot} offset {offset} length {len(data)} size {size}", slot, call)

    def close(self) -> None:
        if self._handles:
            slot = self.choose.choice(sorted(self._handles))
            self._trace.append(f"close {slot}")
            for descriptor in self._handles.pop(slot):
                os.close(descriptor)


def _shown(value: Any) -> str:
    if isinstance(value, bytes) and len(value) > 60:
        zeros = value.count(0)
        return f"{len(value)} bytes ({zeros} zeros) {value[:20]!r}..."
    return repr(value)[:500]
