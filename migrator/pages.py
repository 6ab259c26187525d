"""Stands beside CRIU's lazy-pages daemon on the target, as a program: a container never runs on pages that are lost.

The daemon has no reconnect. When its source hangs up it ends, and with the last user of a userfaultfd the kernel
answers faults with zeros. So this program holds duplicates of the daemon's descriptors: whoever touches a page that is
not there waits, and when the daemon ended without having brought everything, all tasks are killed before the
duplicates are closed. It outlives the agent, and leaves the outcome in a file.

It is started before the freeze, and speaks with the agent that started it: a line with the daemon's command (JSON) is
awaited, and answered "ready" when a restore may begin; then one with the restored init's pid, answered "guarded". An
agent that goes away before that takes the restore with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from migrator import syscalls
from migrator.core import limits
from migrator.freezer import Freezer

SOCKET: Final = "lazy-pages.socket"  # CRIU's, in its working directory
OUTCOME: Final = "pages.outcome"  # ours, in the same: COMPLETE or LOST, once known
GUARDED: Final = "pages.guarded"  # there, and locked by this program, from the moment that a restored copy is watched
RECEIVED: Final = "pages.received"  # bytes that the source has sent so far, in decimal
COMPLETE, LOST = "complete", "lost"
LOOK_SECONDS: Final = 0.02  # how soon a process that has all its pages is let go, and a new one is held


class Watched:
    """Duplicates of the daemon's userfaultfds, by their number there."""

    def __init__(self, pid: int) -> None:
        """PID: of the daemon."""
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._held: dict[int, int] = {}
        self._sockets: list[int] = []

    def follow(self) -> bool:
        """Hold what the daemon has, let go what it has closed; False once it has ended."""
        if select.select([self._pidfd], [], [], 0)[0]:
            return False
        try:
            there = {int(name): os.readlink(f"/proc/{self._pid}/fd/{name}") for name in os.listdir(self._path)}
        except OSError:
            return True  # something in it has just been closed: look again
        if 0 not in there:
            return True  # it is ending, and its descriptors are not closed one by one
        self._sockets = [number for number, link in there.items() if link.startswith("socket:")]
        lazy = {number for number, link in there.items() if "userfaultfd" in link}
        for number in lazy - self._held.keys():
            with contextlib.suppress(OSError):
                self._held[number] = syscalls.pidfd_getfd(self._pidfd, number)
        for number in self._held.keys() - lazy:
            os.close(self._held.pop(number))
        return True

    @property
    def _path(self) -> str:
        return f"/proc/{self._pid}/fd"

    def wait(self, tell: Callable[[int], None]) -> None:
        """Until the daemon has ended; TELL hears now and then how many bytes its source has sent."""
        heard = time.monotonic()
        while self.follow():
            if (now := time.monotonic()) - heard >= limits.RECEIVED_SECONDS:
                heard = now
                with contextlib.suppress(OSError):  # it closes one, or the room is full: nobody depends on a figure
                    tell(sum(map(self._received, self._sockets)))
            select.select([self._pidfd], [], [], LOOK_SECONDS)

    def _received(self, number: int) -> int:
        """Bytes that have come over a socket of the daemon; none over one that is not TCP."""
        duplicate = syscalls.pidfd_getfd(self._pidfd, number)
        try:
            return syscalls.tcp_received(duplicate)
        except OSError:
            return 0
        finally:
            os.close(duplicate)

    def close(self) -> None:
        """From here on, the kernel answers faults as ever."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


def main() -> int:
    """Argument: CRIU's working directory. Exit status 0: all pages came."""
    work, line = Path(sys.argv[1]), sys.stdin.readline()
    if not line:
        return 1
    argv = json.loads(line)
    with open(work / "pages.log", "wb") as log:
        daemon = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    while not (work / SOCKET).exists():
        if daemon.poll() is not None:
            print("ended", flush=True)
            return 1
        select.select([], [], [], 0.001)
    print("ready", flush=True)
    line = sys.stdin.readline()
    if not line.strip():
        daemon.kill()
        return 1
    freezer = Freezer.of(int(line))
    watched = Watched(daemon.pid)
    watched.follow()
    guarded = open(work / GUARDED, "w")  # noqa: SIM115 - its lock is our sign of life, to the end
    fcntl.flock(guarded, fcntl.LOCK_EX)
    guarded.write(str(freezer.directory))
    guarded.flush()
    with contextlib.suppress(BrokenPipeError):
        print("guarded", flush=True)
    watched.wait(lambda count: _leave(work / RECEIVED, str(count)))
    complete = daemon.wait() == 0
    if not complete:
        freezer.kill(limits.PAUSE_SECONDS)
    watched.close()
    note(work, COMPLETE if complete else LOST)
    return 0 if complete else 1


def note(work: Path, outcome: str) -> None:
    """Leave the outcome for whoever asks."""
    _leave(work / OUTCOME, outcome)


def _leave(path: Path, text: str) -> None:
    """Whoever reads it reads all of it."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.rename(path)


if __name__ == "__main__":
    sys.exit(main())
