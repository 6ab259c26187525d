"""Stands beside CRIU's lazy-pages daemon on the target, as a program: a container never runs on pages that are lost.

The daemon has no reconnect. When its source hangs up it ends, and with the last user of a userfaultfd the kernel
answers faults with zeros. So this program holds duplicates of the daemon's descriptors: whoever touches a page that is
not there waits, and when the daemon ended without having brought everything, all tasks are killed before the
duplicates are closed. It outlives the agent, and leaves the outcome in a file.

It speaks with the agent that started it: "ready" when a restore may begin, then a line with the restored init's pid is
awaited, and answered "guarded". An agent that goes away before that takes the restore with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from migrator import syscalls
from migrator.core import limits
from migrator.core.errors import Lost, RuntimeFailed
from migrator.freezer import Freezer

SOCKET: Final = "lazy-pages.socket"  # CRIU's, in its working directory
OUTCOME: Final = "pages.outcome"  # ours, in the same: COMPLETE or LOST, once known
GUARDED: Final = "pages.guarded"  # there, and locked by this program, from the moment that a restored copy is watched
COMPLETE, LOST = "complete", "lost"
LOOK_SECONDS: Final = 0.02  # how soon a process that has all its pages is let go, and a new one is held


class Watched:
    """Duplicates of the daemon's userfaultfds, by their number there."""

    def __init__(self, pid: int) -> None:
        """PID: of the daemon."""
        self._pid = pid
        self._pidfd = os.pidfd_open(pid)
        self._held: dict[int, int] = {}

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

    def wait(self) -> None:
        """Until the daemon has ended."""
        while self.follow():
            select.select([self._pidfd], [], [], LOOK_SECONDS)

    def close(self) -> None:
        """From here on, the kernel answers faults as ever."""
        for descriptor in self._held.values():
            os.close(descriptor)
        self._held.clear()


def main() -> int:
    """Arguments: CRIU's working directory, then the daemon's command. Exit status 0: all pages came."""
    work, argv = Path(sys.argv[1]), sys.argv[2:]
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
    watched.wait()
    complete = daemon.wait() == 0
    if not complete:
        freezer.kill(limits.PAUSE_SECONDS)
    watched.close()
    note(work, COMPLETE if complete else LOST)
    return 0 if complete else 1


def note(work: Path, outcome: str) -> None:
    """Leave the outcome for whoever asks."""
    new = work / f"{OUTCOME}.new"
    new.write_text(outcome)
    new.rename(work / OUTCOME)


class LazyPages:
    """The agent's end of it. A restore is to have started it, and told it the pid, before anybody may run."""

    def __init__(self, work: Path) -> None:
        """WORK: CRIU's working directory; what an earlier agent started there is seen as well."""
        self._work = work
        self._process: subprocess.Popen[str] | None = None

    def start(self, environment: Mapping[str, str], argv: Sequence[str]) -> None:
        """Start CRIU's daemon, by ARGV; return when a restore may begin. Raises RuntimeFailed."""
        words = [sys.executable, "-m", "migrator.pages", str(self._work), *argv]
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
            cwd=self._work,
        )
        if self._answer() != "ready":
            raise RuntimeFailed(
                "CRIU cannot fetch pages from the source", remedy="can the target connect to it?", log=self._log()
            )

    def guard(self, pid: int) -> None:
        """From here on no task of the container outlives a loss of its pages; raises RuntimeFailed."""
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{pid}\n")
            self._process.stdin.flush()
        if self._answer() != "guarded":
            raise RuntimeFailed("the restored container's pages cannot be watched over", log=self._log())

    def complete(self, seconds: float) -> bool:
        """Whether all pages are here, waiting for it up to SECONDS; raises Lost if they never will be."""
        guarded, outcome = self._work / GUARDED, self._work / OUTCOME
        if not guarded.exists():
            return True  # memory came with the images
        deadline = time.monotonic() + seconds
        while not outcome.exists():
            if _unlocked(guarded) and not outcome.exists():  # the watcher was killed: nobody may go on without
                Freezer(Path(guarded.read_text())).kill(limits.PAUSE_SECONDS)
                note(self._work, LOST)
            elif time.monotonic() > deadline:
                return False
            else:
                select.select([], [], [], LOOK_SECONDS)
        if outcome.read_text() == LOST:
            raise Lost(
                "the source went away before all pages of memory had come; the container was killed",
                remedy="its disk is still on the target",
                log=self._log(),
            )
        return True

    def close(self) -> None:
        """Give back the pipes, and the watcher's place in the table of processes if it has ended."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                with contextlib.suppress(OSError):
                    stream.close()
            self._process.poll()

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], limits.PAUSE_SECONDS)[0]:
            return ""
        return self._process.stdout.readline().strip()

    def _log(self) -> list[str]:
        with contextlib.suppress(OSError):
            return (self._work / "pages.log").read_text(errors="replace").splitlines()[-limits.LOG_LINES :]
        return []


def _unlocked(path: Path) -> bool:
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
