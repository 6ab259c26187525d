"""Space put by for the records, so that on a full disk room can still be made.

To remove a file takes a note in the log, and its space is free only after a checkpoint: without any space there would
be no way to gain some. The reserve is a file of allocated blocks; where the records find the disk full it gives them
up piece by piece, and a checkpoint puts them by again once there is plenty.
"""

import errno
import os
from pathlib import Path

from voyfs.core.limits import KIB, MIB

RESERVE_BYTES = 1 * MIB
PIECE_BYTES = 64 * KIB  # some 2,600 notes, or the rows of as many removed files as one checkpoint mostly has
_PLENTY = 8 * RESERVE_BYTES  # free space of which the reserve may take its own

FULL = (errno.ENOSPC, errno.EDQUOT)


class Reserve:
    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    @property
    def size(self) -> int:
        """Bytes that are left."""
        return os.fstat(self._file).st_size

    def give(self) -> bool:
        """Frees a piece; False when nothing is left."""
        size = self.size
        os.ftruncate(self._file, max(0, size - PIECE_BYTES))
        return size > 0

    def put_by(self) -> None:
        """Makes it whole if that takes nothing that others will miss."""
        if self.size >= RESERVE_BYTES:
            return
        space = os.fstatvfs(self._file)
        if space.f_bavail * space.f_frsize < _PLENTY:
            return
        try:
            os.posix_fallocate(self._file, 0, RESERVE_BYTES)
        except OSError:
            pass  # somebody else was faster; whatever it got is good

    def close(self) -> None:
        os.close(self._file)
