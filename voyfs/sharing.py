"""A file through which mounts that share a link hear of each other: who waits for a source, and what may be brought.

Locks on it are of open files, so whoever dies lets go of them. Nothing here blocks: a mount that was stopped with the
budget in its hands keeps no other one from answering its kernel.
"""

import fcntl
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

from voyfs.core.bandwidth import MOST, Allowance
from voyfs.core.errors import StoreError

# Of the file's bytes, the first is locked by those who wait, the second by who changes the budget.
_WAITING, _BUDGET = 0, 1

_RATE = struct.Struct("<Q")  # bytes a second of all together, 0: no limit
_DEBT = struct.Struct("<dd")  # bytes, and when it was that: seconds of the monotonic clock

# Until somebody else is done with the budget: some microseconds.
_AGAIN_SECONDS = 0.001


class Share:
    """One mount's end of it."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Makes the file if there is none. Raises StoreError."""
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"cannot share {path}: {error.strerror}") from error
        self._clock = clock
        self._waiting = False
        self._unsaid = 0  # bytes spent, while somebody else had the budget

    def close(self) -> None:
        os.close(self._file)

    # -- demand -----------------------------------------------------------------------------

    def wait(self, waiting: bool) -> None:
        """Somebody waits here, or nobody does."""
        if waiting != self._waiting:
            self._lock(_WAITING, fcntl.F_RDLCK if waiting else fcntl.F_UNLCK)
            self._waiting = waiting

    @property
    def others_wait(self) -> bool:
        """Somebody waits at another mount."""
        asked = _flock(_WAITING, fcntl.F_WRLCK)
        found: int = struct.unpack_from("h", fcntl.fcntl(self._file, fcntl.F_OFD_GETLK, asked))[0]
        return found != fcntl.F_UNLCK

    # -- the budget -------------------------------------------------------------------------

    @property
    def rate(self) -> int:
        """Of all together, in bytes a second; 0: no limit."""
        data = os.pread(self._file, _RATE.size, 0)
        rate: int = _RATE.unpack(data)[0] if len(data) == _RATE.size else 0
        return rate if rate < MOST else 0

    @rate.setter
    def rate(self, rate: int) -> None:
        os.pwrite(self._file, _RATE.pack(rate), 0)

    def delay(self) -> float:
        """Seconds until something may be spent; then it is to be asked again, for others spend too."""
        if not self._lock(_BUDGET, fcntl.F_WRLCK):
            return _AGAIN_SECONDS
        try:
            now = self._clock()
            allowance = Allowance(self.rate, *self._debt(now))
            allowance.spend(self._unsaid, now)
            self._unsaid = 0
            delay = allowance.delay(now)
            os.pwrite(self._file, _DEBT.pack(allowance.debt, now), _RATE.size)
            return delay
        finally:
            self._lock(_BUDGET, fcntl.F_UNLCK)

    def spend(self, size: int) -> None:
        """So many bytes are on their way here; negative: so many of them were none."""
        self._unsaid += size
        self.delay()

    def _debt(self, now: float) -> tuple[float, float]:
        """The clock of an earlier boot may have been ahead of this one's."""
        data = os.pread(self._file, _DEBT.size, _RATE.size)
        debt, since = _DEBT.unpack(data) if len(data) == _DEBT.size else (0.0, now)
        return (debt, min(since, now)) if 0 <= debt < MOST and since >= 0 else (0.0, now)

    def _lock(self, byte: int, kind: int) -> bool:
        try:
            fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _flock(byte, kind))
        except BlockingIOError:
            return False
        return True


def _flock(byte: int, kind: int) -> bytes:
    """`struct flock` for one byte: type, whence, start, length, pid."""
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, byte, 1, 0)
