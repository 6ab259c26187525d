"""What a tree looks like to a program, as values that can be compared."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Seen:
    """One entry; `links` are all its names, `content` a digest or the target of a link."""

    kind: int
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    size: int
    content: bytes
    xattrs: tuple[tuple[str, bytes], ...]
    links: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Times:
    mtime_ns: int
    ctime_ns: int


def content(path: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.digest()


def snapshot(root: Path) -> dict[bytes, Seen]:
    """Everything at or below `root` by its path in it; the root itself is b"."."""
    found: dict[bytes, os.stat_result] = {}
    names: dict[int, list[bytes]] = {}
    base = os.fsencode(root)
    for path in _paths(base):
        status = found[path] = os.lstat(os.path.join(base, path))
        names.setdefault(status.st_ino, []).append(path)
    seen = {}
    for path, status in found.items():
        full = os.path.join(base, path)
        data = b""
        if stat.S_ISREG(status.st_mode):
            data = content(full)
        elif stat.S_ISLNK(status.st_mode):
            data = os.readlink(full)
        xattrs = tuple(
            sorted(
                (name, os.getxattr(full, name, follow_symlinks=False))
                for name in os.listxattr(full, follow_symlinks=False)
            )
        )
        seen[path] = Seen(
            stat.S_IFMT(status.st_mode),
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_nlink,
            0 if stat.S_ISDIR(status.st_mode) else status.st_size,
            data,
            xattrs,
            tuple(sorted(names[status.st_ino])) if not stat.S_ISDIR(status.st_mode) else (),
        )
    return seen


def times(root: Path) -> dict[bytes, Times]:
    """Times of everything at or below `root`, taken without reading anything."""
    base = os.fsencode(root)
    found = {}
    for path in _paths(base):
        status = os.lstat(os.path.join(base, path))
        found[path] = Times(status.st_mtime_ns, status.st_ctime_ns)
    return found


def _paths(base: bytes) -> list[bytes]:
    found = [b"."]
    waiting = [b""]
    while waiting:
        at = waiting.pop()
        with os.scandir(os.path.join(base, at) if at else base) as entries:
            for entry in entries:
                path = os.path.join(at, entry.name)
                found.append(path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(path)
    return found


def assert_same(left: Path, right: Path) -> None:
    """Both trees look the same to a program, but for times."""
    here, there = snapshot(left), snapshot(right)
    assert here.keys() == there.keys()
    for path, seen in here.items():
        assert seen == there[path], path
