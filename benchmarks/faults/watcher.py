"""Watches the container on both hosts, and proves of each migration that two copies never acted at once.

Two witnesses. The freezer of each side's cgroup says, every few milliseconds, whether tasks there can act. And the
container itself writes a line into a file on its own disk a hundred times a second: a copy that acted between two looks
has made its file longer, whichever side it was on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.lab.hosts import Host
from migrator.core import limits

TICKS: Final = "srv/ticks"  # below the container's root
LOOK_SECONDS: Final = 0.002
_EXITING: Final = 0x4  # PF_EXITING of linux/sched.h, in a task's flags: set when SIGKILL is no longer pending

# Ticks without a program being started, so that every dump meets the same processes.
WITNESS: Final = (
    "rm -f /srv/pipe; mkfifo /srv/pipe; exec 9<>/srv/pipe; "
    f'( while :; do read -t 0.01 -u 9; echo $EPOCHREALTIME >>/{TICKS}; done ) & exec "$@"'
)


@dataclass(frozen=True, slots=True)
class Look:
    """One side at an instant."""

    at: float
    acting: bool  # tasks that are not frozen
    ticks: int  # bytes of the file; -1: none


class Side:
    """The container of one name on one host."""

    def __init__(self, host: Host, name: str, roots: Callable[[], Sequence[Path]]) -> None:
        """ROOTS: where its files may be, seen from outside and past any FUSE mount."""
        freezer = host.path_of("/sys/fs/cgroup/freezer")  # v1 owns it where both versions are
        self._group = (freezer if freezer.exists() else freezer.parent) / name
        self._outside = _namespace(str(host.pid))
        assert self._outside
        self._roots = roots

    def look(self) -> Look:
        """Now."""
        return Look(time.monotonic(), acting(self._group, self._outside), self._ticks())

    def _ticks(self) -> int:
        sizes = [-1]
        for root in self._roots():
            with contextlib.suppress(OSError):
                sizes.append(os.stat(root / TICKS).st_size)
        return max(sizes)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def acting(group: Path, outside: str) -> bool:
    """The state is looked at first: a group that freezes, or goes away, after that has no tasks that act by the end.

    A process of the host's own namespace (OUTSIDE: its identity) is none of the container's: it is CRIU, or a program
    that CRIU calls; both leave or end when the tasks are let go. While CRIU has either in there, tasks run CRIU's code.
    """
    frozen = _read(group / "freezer.state").strip() == "FROZEN" or "frozen 1" in _read(group / "cgroup.events")
    pids = _read(group / "cgroup.procs").split()
    if frozen or any(_is_criu(pid) or _is_criu(_parent(pid)) for pid in pids):
        return False
    return any(_namespace(pid) not in ("", outside) and _can_act(pid) for pid in pids)


def _is_criu(pid: str) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/exe").endswith("/criu")
    except OSError:
        return False  # it has ended


def _parent(pid: str) -> str:
    return (_stat(pid) or ("", "0"))[1]


def _stat(pid: str) -> list[str]:
    """What proc_pid_stat(5) tells from the state on; nothing of who has ended."""
    return _read(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()


def _namespace(pid: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""  # it has ended


def _can_act(pid: str) -> bool:
    """A task that has been killed, and is thawed to die, acts no more; nor does one that is on its way out."""
    status = dict(line.split(":", 1) for line in _read(Path(f"/proc/{pid}/status")).splitlines() if ":" in line)
    if any(int(status.get(kind, "0"), 16) & 1 << (signal.SIGKILL - 1) for kind in ("SigPnd", "ShdPnd")):
        return False
    stat = _stat(pid)
    return bool(stat) and stat[0] not in "ZX" and not int(stat[6]) & _EXITING


class Watcher:
    """A context manager; looks from its start to its end."""

    def __init__(self, source: Side, target: Side) -> None:
        """SOURCE: where the container acts at first."""
        self._sides = (source, target)
        self.looks: list[tuple[Look, Look]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def __enter__(self) -> Watcher:
        """Look."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look no more."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.looks.append((self._sides[0].look(), self._sides[1].look()))

    def wait(self, condition: Callable[[Look, Look], bool], seconds: float) -> bool:
        """Whether a look fulfils CONDITION within SECONDS."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if condition(self._sides[0].look(), self._sides[1].look()):
                return True
            time.sleep(LOOK_SECONDS)
        return False

    def problems(self) -> Iterator[str]:
        """What should never have been seen."""
        looks = self.looks
        if not looks:
            yield "nobody looked"
            return
        both = [source for source, target in looks if source.acting and target.acting]
        if both:
            yield f"two copies acted at once, in {len(both)} of {len(looks)} looks"
        stands = next((source.at for source, _ in looks if not source.acting), looks[-1][0].at)
        # It may go on at once, for a moment, to accept connections that wait; no copy of it is anywhere so soon. (It
        # starts no programs, for which it would be let go longer.)
        settled = stands + 2 * limits.DRAIN_SECONDS
        rests = next((number for number, (look, _) in enumerate(looks) if not look.acting and look.at >= settled), None)
        after = [] if rests is None else looks[rests:]
        if after:
            frozen_at = after[0][0].ticks
            grew = [max(pair[side].ticks for pair in after) - frozen_at for side in (0, 1)]
            if min(grew) > 0:
                yield f"both copies wrote after the freeze: {grew[0]} and {grew[1]} bytes"

    @property
    def standstill(self) -> float:
        """Seconds, the longest time in which neither side acted."""
        longest, began = 0.0, None
        for source, target in self.looks:
            if source.acting or target.acting:
                began = None
            else:
                began = source.at if began is None else began
                longest = max(longest, source.at - began)
        return longest
