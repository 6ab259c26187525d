"""A disk that remembers each write: one file in a file system of its own, to be used through a loop device.

`python -m tests.power.recorder MOUNTPOINT IMAGE LOG` serves IMAGE as MOUNTPOINT/disk, prints "ready", and appends to
LOG what is written and where the disk was told to make it durable (see `entries`). It ends when it is unmounted.
"""

import os
import stat
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyfuse3
import trio
from pyfuse3 import EntryAttributes, FileInfo, FUSEError, ReaddirToken, RequestContext

_HEADER = struct.Struct("<QQ")
_BARRIER = (1 << 64) - 1
DISK = 2


def entries(log: Path) -> Iterator[tuple[int, int | None, bytes]]:
    """(where in the log it ends, offset on the disk, data) of each write; offset None: all before it is durable."""
    raw = log.read_bytes()
    at = 0
    while at < len(raw):
        offset, length = _HEADER.unpack_from(raw, at)
        at += _HEADER.size + length
        yield at, None if offset == _BARRIER else offset, raw[at - length : at]


class Recorder(pyfuse3.Operations):
    def __init__(self, image: str, log: str) -> None:
        super().__init__()
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _note(self, offset: int, data: bytes) -> None:
        os.writev(self._log, [_HEADER.pack(offset, len(data)), data])

    async def getattr(self, inode: int, ctx: RequestContext | None = None) -> EntryAttributes:
        entry = EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = stat.S_IFREG | 0o600 if inode == DISK else stat.S_IFDIR | 0o700
        entry.st_size = os.fstat(self._image).st_size if inode == DISK else 0
        entry.st_nlink = 1
        return entry

    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext | None = None) -> EntryAttributes:
        if name != b"disk":
            raise FUSEError(2)
        return await self.getattr(DISK)

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        pass

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=inode)

    async def read(self, fh: int, off: int, size: int) -> bytes:
        return os.pread(self._image, size, off)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        self._note(off, buf)
        return os.pwrite(self._image, buf, off)

    async def fsync(self, fh: int, datasync: bool) -> None:
        self._note(_BARRIER, b"")

    async def flush(self, fh: int) -> None:
        pass

    async def release(self, fh: int) -> None:
        pass

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        pass


def main() -> None:
    mountpoint, image, log = sys.argv[1:]
    pyfuse3.init(Recorder(image, log), mountpoint, {"fsname=recorder"})
    print("ready", flush=True)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
