"""Digests of a whole tree, to compare a container's root on two hosts without trusting what moved it.

Run as a program on a host (standard library alone, no sibling imported); as a module it starts that program and reads
its answer. Of each entry: type, mode, owner, size, target or device, extended attributes, content, which other name it
shares its inode with, and mtime: but of directories, for CRIU makes and removes one in the source's /tmp.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from benchmarks.lab.hosts import Host

READ_BYTES: Final = 1 << 20
SECONDS: Final = 1800.0  # some ten GiB from a slow disk


def of(host: Host, root: PurePosixPath, skip: Sequence[str]) -> Mapping[str, str]:
    """Digests of the tree at ROOT inside HOST by path in it, without what lies at and below the paths in SKIP."""
    done = host.run([sys.executable, "-I", "-S", __file__, str(root), *skip], timeout=SECONDS)
    return dict(json.loads(line) for line in done.stdout.splitlines())


def differing(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Paths that are not the same in both."""
    return sorted(path for path in {*one, *other} if one.get(path) != other.get(path))


def _walk(root: bytes, skip: set[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        status = os.lstat(os.path.join(root, path))
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            names = (os.path.join(path, name) for name in os.listdir(os.path.join(root, path)))
            waiting += (name for name in names if name not in skip)


def _digest(path: bytes, status: os.stat_result, first: bytes) -> str:
    mtime = 0 if stat.S_ISDIR(status.st_mode) else status.st_mtime_ns
    told: list[object] = [status.st_mode, status.st_uid, status.st_gid, mtime, first]
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        told += [name, os.getxattr(path, name, follow_symlinks=False)]
    if stat.S_ISLNK(status.st_mode):
        told.append(os.readlink(path))
    elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
        told.append(status.st_rdev)
    digest = hashlib.blake2b(repr(told).encode(), digest_size=16)
    if stat.S_ISREG(status.st_mode):
        digest.update(b"%d" % status.st_size)
        with open(path, "rb", buffering=0) as file:
            while data := file.read(READ_BYTES):
                digest.update(data)
    return digest.hexdigest()


def main() -> None:
    """Arguments: the root, then paths in it to leave out. Writes a line of JSON for each entry."""
    root, *skip = (os.fsencode(word) for word in sys.argv[1:])
    entries = sorted(_walk(root, {path.strip(b"/") for path in skip}))
    names: dict[int, bytes] = {}
    for path, status in entries:
        first = names.setdefault(status.st_ino, path)  # the least of the names that share an inode
        print(json.dumps([os.fsdecode(path), _digest(os.path.join(root, path), status, first)]))


if __name__ == "__main__":
    main()
