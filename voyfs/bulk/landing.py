"""Writing fetched bytes into backing files that exist already.

Nothing is created and no file grows: a container may rename, replace or truncate a file at any
moment, and its owner then asks again under the new name.
"""

import errno
import os
from types import TracebackType
from typing import Self

from voyfs.ports import FileJob, Piece
from voyfs.rpc.openat import open_below


class Landing:
    """The backing directory; opens below it only."""

    def __init__(self, data: str | os.PathLike[str]) -> None:
        self._data = os.open(data, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def open(self, job: FileJob) -> "Target":
        """Raises OSError; FileNotFoundError when another file has taken the name."""
        fd = open_below(self._data, job.local, os.O_WRONLY | os.O_NONBLOCK)
        try:
            if os.fstat(fd).st_ino != job.inode:
                raise FileNotFoundError(errno.ENOENT, "another file has taken this name")
        except BaseException:
            os.close(fd)
            raise
        return Target(fd)


class Target:
    """An open backing file."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, piece: Piece) -> None:
        """A hole is left as it is: the placeholder has one there. Raises OSError."""
        if piece.data is None:
            return
        # Never past its end: the container has truncated it, and means it.
        if os.fstat(self._fd).st_size < piece.start + piece.length:
            raise FileNotFoundError(errno.ENOENT, "the file has become shorter")
        rest = memoryview(piece.data)
        start = piece.start
        while rest:
            written = os.pwrite(self._fd, rest, start)
            start += written
            rest = rest[written:]

    def close(self) -> None:
        os.close(self._fd)
