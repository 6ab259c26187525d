"""Removes what a killed runtime or CRIU leaves of a container that never was: its groups and its state directory.

It must not know why they were killed. Nothing here deletes a tree: a mount that was overlooked would be deleted with
it.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from migrator.core.errors import RuntimeFailed
from migrator.freezer import Freezer, cgroup_mounts, own_cgroups


def remove_groups(name: str, seconds: float) -> None:
    """Kill all tasks in the groups called NAME, and remove those: a restore of that name would fail in them.

    A runtime makes them at the top of each hierarchy, or below its own group.
    """
    deadline = time.monotonic() + seconds
    for mountpoint, root, kind, options in cgroup_mounts():
        for own in own_cgroups(kind, options):
            for base in {Path(mountpoint), Path(mountpoint) / os.path.relpath(own, root)}:
                if (base / name).is_dir():
                    Freezer(base / name).kill(seconds)
                    _remove(base / name, deadline)


def _remove(group: Path, deadline: float) -> None:
    """Remove a group and those below; the kernel takes a moment to see that it is empty."""
    for directory, _, _ in os.walk(group, topdown=False):
        while True:
            try:
                os.rmdir(directory)
                break
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise RuntimeFailed(f"cannot remove the group {directory}: {error.strerror}") from error


def remove_state(directory: Path) -> None:
    """Remove a runtime's state directory: the files in it, directories only if they are empty."""
    try:
        for entry in directory.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                entry.rmdir()
            else:
                entry.unlink()
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
    except OSError as error:
        raise RuntimeFailed(
            f"cannot remove {directory}: {error.strerror}", remedy="look whether something is mounted in it"
        ) from error
