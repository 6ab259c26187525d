"""Stops what CRIU restores before it can act: no instruction of the restored tasks is run until somebody lets them go.

CRIU calls a program at each of its stages. At the last before it lets the tasks go it finds a latch here: the program
says who they are and waits, their group is frozen, and CRIU goes on to let tasks go that cannot. A runtime may have
put CRIU, and so the program, or a helper of its own, into the same group: those leave it first, or all would wait for
each other. It must not know of runtimes or migrations.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import Final

from migrator.core.errors import RuntimeFailed
from migrator.freezer import Freezer
from migrator.tools import first_of, named_pipe, wait_or_kill

CONFIG: Final = "criu.conf"
_LOOK_SECONDS: Final = 0.02
_SCRIPT: Final = """\
#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0
echo "$CRTOOLS_INIT_PID" >'{directory}/restored' && read go <'{directory}/go'
"""


class Latch:
    """For one restore; use as a context manager around it."""

    def __init__(self, directory: Path, options: str) -> None:
        """Its files go into DIRECTORY, among them a configuration of CRIU with OPTIONS besides."""
        self.config = directory / CONFIG
        script = directory / "latch"
        script.write_text(_SCRIPT.format(directory=directory))
        script.chmod(0o755)
        self.config.write_text(f"{options}action-script {script}\n")
        self._init = 0
        self._restored, self._go = (named_pipe(directory / name) for name in ("restored", "go"))

    def __enter__(self) -> Latch:
        """Nothing to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the pipes: a program that still waits finds nobody, and fails."""
        for descriptor in (self._restored, self._go):
            os.close(descriptor)

    def freeze(self, process: subprocess.Popen[bytes], seconds: float) -> Freezer | None:
        """Wait until PROCESS, which restores, has come that far, or has ended; the frozen group, None if it had ended.

        On return the order to freeze is given; tasks stand still from then on, though they may not be seen to yet.
        """
        if not first_of(self._restored, process, seconds):
            return None
        text = os.read(self._restored, 64)
        try:
            self._init = int(text)
        except ValueError:
            raise RuntimeFailed(f"CRIU tells no process that it has restored: {text!r}") from None
        freezer = Freezer.of(self._init)
        freezer.exempt_all_but(self._init)
        freezer.order()
        os.write(self._go, b"\n")
        return freezer

    def wait(self, process: subprocess.Popen[bytes], freezer: Freezer | None, seconds: float) -> int:
        """The status of PROCESS when it ends, killed if it does not in SECONDS; FREEZER: what `freeze` gave.

        A runtime may move a helper into the frozen group after that, and wait for it: crun does.
        """
        deadline = time.monotonic() + seconds
        while freezer is not None and time.monotonic() < deadline:
            if _ended(process, _LOOK_SECONDS):
                break
            freezer.exempt_all_but(self._init)
        return wait_or_kill(process, max(deadline - time.monotonic(), 0))


def _ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    descriptor = os.pidfd_open(process.pid)
    try:
        return bool(select.select([descriptor], [], [], seconds)[0])
    finally:
        os.close(descriptor)
