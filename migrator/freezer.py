"""Freezes and thaws the tasks of a cgroup by its files, v1 or v2: no program is started while tasks stand still.

What a runtime's own pause and resume do is the same, so either sees what the other did. It must not know of containers.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from migrator.core.errors import RuntimeFailed

_AGAIN_SECONDS: Final = 0.05
# Where the kernel lets who starts a program by vfork(2) wait: its own function for that, where the compiler left it
# one, or that which calls it (by its older name before 5.10). The compiler may append something after a dot.
_VFORK: Final = ("wait_for_vfork_done", "kernel_clone", "_do_fork")


class Freezer:
    """A cgroup directory in a hierarchy that can freeze."""

    def __init__(self, directory: Path) -> None:
        """Nothing happens yet."""
        self.directory = directory
        self._v1 = (directory / "freezer.state").exists()
        self._state = directory / ("freezer.state" if self._v1 else "cgroup.freeze")

    @classmethod
    def of(cls, pid: int) -> Freezer:
        """The one of a process; raises RuntimeFailed where there is none."""
        groups = _groups(pid)
        for mountpoint, root, kind, options in cgroup_mounts():
            name = "freezer" if kind == "cgroup" else ""
            if name not in groups or (name and name not in options):
                continue
            directory = Path(mountpoint) / os.path.relpath(groups[name], root)
            if (directory / "freezer.state").exists() or (directory / "cgroup.freeze").exists():
                return cls(directory)
        raise RuntimeFailed(
            f"process {pid} is in no cgroup that can be frozen", remedy="mount the freezer or cgroup v2"
        )

    def pids(self) -> list[int]:
        """Processes in it and below it."""
        return [int(line) for path in self.directory.rglob("cgroup.procs") for line in _read(path).split()]

    @property
    def frozen(self) -> bool:
        """Whether all tasks stand still."""
        if self._v1:
            return _read(self._state).strip() == "FROZEN"
        return "frozen 1" in _read(self.directory / "cgroup.events")

    @property
    def ordered(self) -> bool:
        """Whether tasks stand still, or will as soon as they can."""
        return _read(self._state).strip() in ("FROZEN", "FREEZING", "1")

    def freeze(self, seconds: float) -> None:
        """All tasks stand still on return; if they do not within SECONDS, they go on and it raises RuntimeFailed."""
        deadline = time.monotonic() + seconds
        self.order()
        again = time.monotonic() + _AGAIN_SECONDS
        pause = 0.0
        while not self.frozen:
            if time.monotonic() > again:
                # Who began to wait for a program that it starts (vfork) just when it was told goes on waiting in v1,
                # until it is told again.
                self.order()
                again = time.monotonic() + _AGAIN_SECONDS
            if time.monotonic() > deadline:
                self.thaw()
                raise RuntimeFailed(
                    f"the tasks in {self.directory} do not freeze within {seconds:.0f} s",
                    remedy="a task that waits for a disk or network file system cannot freeze; try again later",
                )
            # The kernel has no event for this in v1; tasks mostly stand still by the second look.
            select.select([], [], [], pause)
            pause = min(pause + 0.0002, 0.005)

    @property
    def starting(self) -> bool:
        """Whether a frozen task waits for a program that it starts (vfork): ptrace cannot stop it meanwhile."""
        return any(
            _read(Path(task, "wchan")).partition(".")[0] in _VFORK for pid in self.pids() for task in _tasks(pid)
        )

    def exempt_all_but(self, init: int) -> None:
        """Move all that is neither INIT nor below it to our own group: one above may be the container's too."""
        ours = _groups("self")
        mountpoint, root = next(
            (each[0], each[1])
            for each in cgroup_mounts()
            if ("freezer" in each[3] if self._v1 else each[2] == "cgroup2")
        )
        place = Path(mountpoint) / os.path.relpath(ours["freezer" if self._v1 else ""], root)
        for pid in self.pids():
            if _descends(pid, init):
                continue
            try:
                (place / "cgroup.procs").write_text(str(pid))
            except ProcessLookupError:
                continue
            except OSError as error:
                raise RuntimeFailed(f"cannot move process {pid} to {place}: {error.strerror}") from error

    def order(self) -> None:
        """Tell the kernel to freeze all tasks, without waiting for it: none begins to act from then on."""
        self._write("FROZEN" if self._v1 else "1")

    def thaw(self) -> None:
        """All tasks go on; nothing to do in a hierarchy that cannot freeze."""
        if self._state.exists():
            self._write("THAWED" if self._v1 else "0")

    def kill(self, seconds: float) -> None:
        """Kill all tasks without letting any of them act again; on return they are gone."""
        deadline = time.monotonic() + seconds
        while pids := self.pids():
            watched = [descriptor for pid in pids for descriptor in _pidfd(pid)]
            try:
                for descriptor in watched:
                    _kill(descriptor)
                self.thaw()  # a task sees its SIGKILL before anything else
                for descriptor in watched:
                    select.select([descriptor], [], [], max(deadline - time.monotonic(), 0))
            finally:
                for descriptor in watched:
                    os.close(descriptor)
            if time.monotonic() > deadline:
                raise RuntimeFailed(f"processes in {self.directory} do not end: {pids}")

    def _write(self, word: str) -> None:
        try:
            self._state.write_text(word)
        except OSError as error:
            raise RuntimeFailed(f"cannot write '{word}' to {self._state}: {error.strerror}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it ended meanwhile


def _tasks(pid: int) -> list[str]:
    """The directories of its threads."""
    try:
        return [entry.path for entry in os.scandir(f"/proc/{pid}/task")]
    except OSError:
        return []  # it ended meanwhile


def _descends(pid: int, ancestor: int) -> bool:
    while pid not in (0, ancestor):
        status = _read(Path(f"/proc/{pid}/stat"))
        pid = int(status.rpartition(")")[2].split()[1]) if status else 0
    return pid == ancestor


def _pidfd(pid: int) -> Iterator[int]:
    try:
        yield os.pidfd_open(pid)
    except ProcessLookupError:
        return


def _kill(descriptor: int) -> None:
    try:
        signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return


def _groups(pid: int | str) -> dict[str, str]:
    """A process's group by controller; by the empty name for v2."""
    groups: dict[str, str] = {}
    for line in _read(Path(f"/proc/{pid}/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        groups.update(dict.fromkeys(controllers.split(","), path))
    return groups


def own_cgroups(kind: str, options: set[str]) -> set[str]:
    """Our own group in the hierarchy of that type and options, as /proc shows it."""
    groups = _groups("self")
    return {groups[name] for name in (options if kind == "cgroup" else {""}) if name in groups}


def cgroup_mounts() -> list[tuple[str, str, str, set[str]]]:
    """Mount point, root, type and options of each hierarchy; v1 first, which owns the freezer where both exist."""
    found = []
    for line in _read(Path("/proc/self/mountinfo")).splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            found.append((before.split()[4], before.split()[3], kind, set(options.split(","))))
    return sorted(found, key=lambda each: each[2])
