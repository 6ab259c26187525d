"""What a name in a tree stands for: its attributes, and the version of its content.

Pure values. They are the vocabulary between the source, the wire and the store, so nothing
here knows how any of those represents them.
"""

import stat
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    """Identity of a file's content on the source; if any field differs, the content may.

    Sizes in bytes, times in nanoseconds since the epoch (negative before 1970).
    """

    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a directory and the attributes of what it names.

    `name` and `target` are raw bytes as the kernel has them; `mode` holds type and permission
    bits; `blocks` counts 512 bytes. `(device, version.inode)` is the same for all names of
    one hard-linked file. `name` is empty for the root of an export.
    """

    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int
    nlink: int
    blocks: int
    atime_ns: int
    device: int
    version: Version
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def is_symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)

    @property
    def size(self) -> int:
        return self.version.size
