"""Processes that work in a directory: found by their open files, waited for, ended.

It must not know what they are.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Collection

from migrator.core.errors import RuntimeFailed


def users_of(directory: str) -> list[int]:
    """Processes with an open file at or below DIRECTORY; never ourselves."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            links = (os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd"))
            if int(pid) != os.getpid() and any((link + "/").startswith(directory + "/") for link in links):
                found.append(int(pid))
    return found


def held_by(pids: Collection[int]) -> list[int]:
    """Processes that PIDS trace, or that descend from any of all these."""
    parents: dict[int, tuple[int, int]] = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/status") as lines:
            words = dict(line.split(":", 1) for line in lines if line.startswith(("PPid:", "TracerPid:")))
            parents[int(pid)] = int(words["PPid"]), int(words["TracerPid"])
    found: set[int] = set()
    while more := {pid for pid, above in parents.items() if not found.union(pids).isdisjoint(above)} - found - {*pids}:
        found |= more
    return sorted(found)


def kill(pids: Collection[int]) -> None:
    """Send SIGKILL to them, without waiting for the effect."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_users(directory: str) -> None:
    """Send SIGKILL to those of DIRECTORY, without waiting for the effect."""
    kill(users_of(directory))


def wait_unused(directory: str, seconds: float) -> None:
    """Wait until there are none; raises RuntimeFailed."""
    deadline = time.monotonic() + seconds
    while pids := users_of(directory):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                ended = os.pidfd_open(pid)
                try:
                    select.select([ended], [], [], max(deadline - time.monotonic(), 0))
                finally:
                    os.close(ended)
        if time.monotonic() > deadline:
            raise RuntimeFailed(f"processes {pids} still work in {directory}", remedy="see what they wait for")
