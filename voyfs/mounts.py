"""Finding voyfs mounts in the mount table, and taking them down."""

import errno
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

from voyfs.core.errors import MountError
from voyfs.handshake import FILE_SYSTEM, take_down


@dataclass(frozen=True, slots=True)
class Mounted:
    """One voyfs mount: where it is, and the store (and so the daemon) behind it."""

    mountpoint: Path
    store: Path


def _unescape(text: str) -> str:
    """Undoes the octal escapes of the mount table (space, tab, newline, backslash)."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def mounts() -> list[tuple[Path, str, str]]:
    """(mount point, type, source) of every mount that this process sees, oldest first."""
    found = []
    raw = Path("/proc/self/mountinfo").read_bytes().decode(errors="surrogateescape")
    for line in raw.rstrip("\n").split("\n"):  # not splitlines(): the kernel escapes no other ends of lines
        left, _, right = line.partition(" - ")
        kind, source, *_ = right.split(" ")
        found.append((Path(_unescape(left.split(" ")[4])), kind, _unescape(source)))
    return found


def find(mountpoint: Path) -> Mounted:
    """The voyfs mount at `mountpoint`. Raises MountError."""
    where = Path(os.path.abspath(mountpoint))
    for path, kind, source in reversed(mounts()):
        if path in (where, _resolved(where)):
            if kind == FILE_SYSTEM:
                return Mounted(path, Path(source))
            break
    raise MountError(f"no voyfs is mounted at {mountpoint}; see `findmnt -t {FILE_SYSTEM}`")


def _resolved(path: Path) -> Path:
    """`path` without symbolic links in its parents; the last part may be a dead mount."""
    return path.parent.resolve() / path.name


def is_dead(mountpoint: Path) -> bool:
    """Whether the connection behind a mount is gone."""
    try:
        os.statvfs(mountpoint)  # of stat(2) the kernel would remember the answer
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def check_free(mountpoint: Path) -> bool:
    """Makes sure that `mountpoint` can be mounted on; true if a dead mount was cleaned away.

    Raises MountError.
    """
    cleaned = False
    while is_dead(mountpoint):
        find(mountpoint)
        unmount(mountpoint, lazy=True)
        cleaned = True
    if not mountpoint.exists():
        raise MountError(f"the mount point {mountpoint} does not exist; make it with mkdir")
    if not mountpoint.is_dir():
        raise MountError(f"the mount point {mountpoint} is not a directory")
    where = mountpoint.resolve()
    for path, kind, _ in mounts():
        if path == where:
            raise MountError(f"something ({kind}) is mounted at {mountpoint} already; unmount it first")
    return cleaned


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Takes the mount away. Raises MountError when it is in use (unless lazy)."""
    try:
        take_down(mountpoint, lazy=lazy)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise MountError(
                f"{mountpoint} is in use; stop what uses it (see `fuser -vm {mountpoint}`), or use --lazy"
            ) from error
        raise MountError(f"cannot unmount {mountpoint}: {error.strerror}") from error


def wait_released(store: Path) -> None:
    """Returns when no daemon holds the store any more."""
    try:
        with open(store / "lock", "rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH)
    except FileNotFoundError:
        pass  # the store was moved or removed: there is nothing to wait for
