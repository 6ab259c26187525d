"""The agent's end of memory that follows a restore: starts what fetches it, and knows how far that is.

The program that stands beside CRIU's daemon is `pages`. It must not know of containers or of the order of a migration.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from migrator import images
from migrator.core import limits
from migrator.core.errors import Lost, RuntimeFailed
from migrator.core.pace import Pace
from migrator.core.plan import Progress
from migrator.freezer import Freezer
from migrator.pages import GUARDED, LOOK_SECONDS, LOST, OUTCOME, RECEIVED, note
from migrator.tools import wait_or_kill


class LazyPages:
    """A restore is to have started it, and told it the pid, before anybody may run."""

    def __init__(self, room: images.Room) -> None:
        """Where CRIU works; what an earlier agent started there is seen as well."""
        self._room = room
        self._work = room.work
        self._total: int | None = None  # bytes that are to come, once counted
        self._pace = Pace()
        self._process: subprocess.Popen[str] | None = None
        self._begun = False

    def stand_by(self, environment: Mapping[str, str]) -> None:
        """Start the program beside the daemon, before the freeze; the daemon itself needs the images."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "migrator.pages", str(self._work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,
            cwd="/",
        )

    def start(self, environment: Mapping[str, str], argv: Sequence[str]) -> None:
        """Start CRIU's daemon, by ARGV; return when a restore may begin. Raises RuntimeFailed."""
        if self._process is None:
            self.stand_by(environment)
        self._tell(json.dumps(argv))
        self._begun = True
        if self._answer() != "ready":
            raise RuntimeFailed(
                "CRIU cannot fetch pages from the source", remedy="can the target connect to it?", log=self._log()
            )

    def guard(self, pid: int) -> None:
        """From here on no task of the container outlives a loss of its pages; raises RuntimeFailed."""
        self._tell(str(pid))
        self._pace.take(time.monotonic(), 0)
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

    def progress(self, *, complete: bool) -> Progress:
        """How far it is; COMPLETE: `complete` said so. Once the copy runs, for the first time takes up to a second."""
        if self._total is None:
            self._total = images.lazy_bytes(self._room.images) if (self._work / GUARDED).exists() else 0
        if complete or not self._total:
            return Progress.of_memory(self._total, self._total, self._pace.rate, complete=complete)
        received = 0
        with contextlib.suppress(OSError, ValueError):
            received = int((self._work / RECEIVED).read_text())
        present = min(received, self._total)  # what wraps the pages is less than a hundredth of them
        self._pace.take(time.monotonic(), present)
        return Progress.of_memory(present, self._total, self._pace.rate, complete=False)

    def close(self) -> None:
        """Give back the pipes, and the watcher's place in the table of processes if it has ended."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                assert stream is not None
                with contextlib.suppress(OSError):
                    stream.close()
            if not self._begun:  # it ends when it hears nothing
                wait_or_kill(self._process, limits.PAUSE_SECONDS)
            self._process.poll()

    def _tell(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()

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
