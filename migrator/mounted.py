"""One mount of voyfs on the target, by the mount itself and its control socket (ports.Mounted).

It must not know of containers or of the order of a migration.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from migrator import control, procs, syscalls
from migrator import times as directory_times
from migrator.core import limits
from migrator.core.errors import Differs, DiskFailed, RuntimeFailed
from migrator.core.plan import Progress

# A daemon ends at once when its mount does. A mount that is taken out of the tree ends with its last user; one who
# waits for the source holds it, until all that waits is made to fail.
UNUSED_SECONDS: Final = 1.0
DAEMON_SECONDS: Final = 2.0


class VoyfsMount:
    """See ports.Mounted."""

    def __init__(self, mountpoint: Path, store: Path) -> None:
        """Nothing is asked yet."""
        self._mountpoint = mountpoint
        self._store = store

    def prefetch(self, paths: Sequence[str]) -> None:
        """See ports.Mounted."""
        if paths:
            control.ask(self._store, "prefetch", limits.PREPARE_SECONDS, paths=list(paths))

    @property
    def prefetched(self) -> Progress:
        """See ports.Mounted."""
        status = control.ask(self._store, "status", limits.CALL_SECONDS)["status"]
        asked = status["prefetch"]
        return _progress(status, asked, complete=asked["bytes"]["present"] == asked["bytes"]["total"])

    def warm(self, seconds: float) -> None:
        """See ports.Mounted."""
        if control.ask(self._store, "status", limits.CALL_SECONDS)["status"]["tracked"]:
            control.ask(self._store, "prefetch", limits.PREPARE_SECONDS, paths=[], names=seconds, working_set=seconds)

    def look_up(self, paths: Sequence[str]) -> None:
        """See ports.Mounted."""
        for path in paths:
            with contextlib.suppress(OSError):
                os.lstat(self._mountpoint / path.lstrip("/"))

    def fetch_ends(self, paths: Sequence[str]) -> None:
        """See ports.Mounted."""
        for path in paths:
            with contextlib.suppress(OSError):
                place = self._mountpoint / path.lstrip("/")
                found = os.lstat(place)
                if stat.S_ISREG(found.st_mode) and found.st_size:
                    file = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                    try:
                        os.pread(file, 1, found.st_size - 1)
                    finally:
                        os.close(file)

    def refresh(self, live: Sequence[str]) -> int:
        """See ports.Mounted."""
        again = [path.strip("/") for path in live]
        return int(control.ask(self._store, "refresh", limits.FREEZE_SECONDS, again=again)["changed"])

    def set_times(self, times: Mapping[str, int]) -> None:
        """See ports.Mounted."""
        directory_times.restore(str(self._mountpoint), times)

    def hydrate(self) -> Iterator[Progress]:
        """See ports.Mounted."""
        for reply in control.call(self._store, "hydrate", wait=True):
            status = reply["status"]
            yield _progress(status, status, complete=status["phase"] in ("hydrated", "detached"))

    @property
    def detached(self) -> bool:
        """See ports.Mounted."""
        return bool(control.ask(self._store, "status")["status"]["phase"] == "detached")

    @property
    def missing_bytes(self) -> int:
        """See ports.Mounted."""
        count = control.ask(self._store, "status", limits.CALL_SECONDS)["status"]["bytes"]
        return int(count["total"]) - int(count["present"])

    def verify(self) -> None:
        """See ports.Mounted."""
        report = control.ask(self._store, "verify", limits.VERIFY_SECONDS)["report"]
        if count := report["difference_count"]:
            path, what = report["differences"][0]
            raise Differs(
                f"{count} entries differ from the source, the first is {path}: {what}",
                remedy=f"keep the source, and see 'voyfs verify {self._mountpoint}' on the target",
            )

    def detach(self) -> None:
        """See ports.Mounted."""
        control.ask(self._store, "detach", limits.PREPARE_SECONDS)

    def discard(self) -> None:
        """See ports.Mounted."""
        mountpoint = str(self._mountpoint)
        with contextlib.closing(syscalls.FuseAborts(mountpoint)) as abort:
            try:
                syscalls.unmount_below(mountpoint)
            except OSError as error:
                raise DiskFailed(f"cannot unmount {mountpoint}: {error.strerror}") from error
            if self._ended(UNUSED_SECONDS):
                return
            abort()
        if not self._ended(DAEMON_SECONDS):
            procs.kill_users(str(self._store))

    def _ended(self, seconds: float) -> bool:
        """Whether the daemon has ended, within SECONDS."""
        try:
            procs.wait_unused(str(self._store), seconds)
        except RuntimeFailed:
            return False
        return True


def _progress(status: Mapping[str, Any], part: Mapping[str, Any], *, complete: bool) -> Progress:
    """From a status of voyfs, and what of it tells how far all or a PART is."""
    return Progress(
        bytes_present=part["bytes"]["present"],
        bytes_total=part["bytes"]["total"],
        files_present=part["files"]["present"],
        seed_bytes=status["seed_bytes"],
        files_total=part["files"]["total"],
        fetched_bytes=status["fetched_bytes"],
        rate=status["rate"],
        eta=part["eta_s"],
        complete=complete,
    )
