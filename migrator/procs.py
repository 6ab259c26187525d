"""Processes that work in a directory: found by their open files, waited for, ended.

It must not know what they are.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

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


def kill_users(directory: str) -> None:
    """Send SIGKILL to them, without waiting for the effect."""
    for pid in users_of(directory):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


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
