"""A host's cgroups: a group of its own in every hierarchy of the machine, v1, v2 or both.

With a cgroup namespace on top, two hosts can each have a container of the same name.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.lab.syscalls import mount

CGROUP_ROOT: Final = "/sys/fs/cgroup"
# A dead namespace's tasks leave their cgroups within milliseconds; this only bounds a kernel that is stuck.
REMOVAL_SECONDS: Final = 10.0
THAW_SECONDS: Final = 0.002  # between two looks at a dying host


@dataclass(frozen=True)
class Hierarchy:
    """One cgroup hierarchy of the machine: where it is mounted, and the group of the host in it."""

    mountpoint: str
    options: str  # of a v1 mount: its controllers; empty for v2
    group: str  # absolute path on the machine

    @property
    def procs(self) -> str:
        """The file that moves a process into the host, as the *host* sees it.

        In v2 a group with both processes and controllers for its children is not allowed, so processes of the host
        itself live one level below, and a runtime's containers beside them.
        """
        return f"{self.mountpoint}/cgroup.procs" if self.options else f"{self.mountpoint}/init/cgroup.procs"


def hierarchies(name: str) -> list[Hierarchy]:
    """The machine's cgroup hierarchies (v1, v2 or both), with a group called NAME for the host in each.

    v1 groups nest below the group of the caller, so its limits hold. In v2 that would need controllers enabled in a
    group with processes, which the kernel refuses, so there the group lies at the top.
    """
    own: dict[frozenset[str], str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        own[frozenset(names.split(","))] = path
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, mountpoint = before.split()[3:5]
        kind, _, options = after.split()
        if not mountpoint.startswith(CGROUP_ROOT):
            continue
        if kind == "cgroup2":
            found.append(Hierarchy(mountpoint, "", f"{mountpoint}/{name}"))
        for controllers, path in own.items():
            if kind == "cgroup" and controllers <= set(options.split(",")):
                group = os.path.normpath(f"{mountpoint}/{os.path.relpath(path, root)}/{name}")
                found.append(Hierarchy(mountpoint, ",".join(sorted(controllers)), group))
    return found


def make(groups: list[Hierarchy]) -> None:
    """Create the host's group in each hierarchy, ready to take processes."""
    for hierarchy in groups:
        group = Path(hierarchy.group)
        group.mkdir()
        for setting in ("cpuset.cpus", "cpuset.mems"):  # v1: empty at first, and then no process may enter
            if hierarchy.options and (group / setting).exists():
                (group / setting).write_text((group.parent / setting).read_text())
        if not hierarchy.options:
            (group / "init").mkdir()
            controllers = (group / "cgroup.controllers").read_text().split()
            (group / "cgroup.subtree_control").write_text(" ".join(f"+{c}" for c in controllers))


def thaw(groups: list[Hierarchy]) -> None:
    """Let paused containers die: v1's freezer holds a task even against SIGKILL, and with it the dying init."""
    for hierarchy in groups:
        for directory, _, files in os.walk(hierarchy.group):
            if "freezer.state" in files and directory != hierarchy.group:
                with contextlib.suppress(OSError):  # the group went away in between
                    Path(directory, "freezer.state").write_text("THAWED")


def remove(groups: list[Hierarchy]) -> None:
    """Remove the host's groups and all below them; they are empty once the host's last process is gone."""
    deadline = time.monotonic() + REMOVAL_SECONDS
    for hierarchy in groups:
        for directory, _, _ in os.walk(hierarchy.group, topdown=False):
            while True:
                try:
                    os.rmdir(directory)
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.005)
                else:
                    break


def mount_hierarchies(groups: list[Hierarchy]) -> None:
    """Inside the host: show it its own groups as if they were all there is."""
    if any(hierarchy.options for hierarchy in groups):
        mount("tmpfs", CGROUP_ROOT, "tmpfs", options="mode=755")
    for hierarchy in groups:
        os.makedirs(hierarchy.mountpoint, exist_ok=True)
        if not hierarchy.options:
            mount("cgroup2", hierarchy.mountpoint, "cgroup2")
        elif hierarchy.options.startswith("name="):
            mount("cgroup", hierarchy.mountpoint, "cgroup", options=f"none,{hierarchy.options}")
        else:
            mount("cgroup", hierarchy.mountpoint, "cgroup", options=hierarchy.options)
