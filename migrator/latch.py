"""Stops what CRIU restores before it can act: no instruction of the restored tasks is run until somebody lets them go.

CRIU calls a program at each of its stages. At the last before it lets the tasks go it finds a latch here: the program
says who they are and waits, their group is frozen, and CRIU goes on to let tasks go that cannot. A runtime may have
put CRIU, and so the program, into the same group: those leave it first. It must not know of runtimes or migrations.
"""

from __future__ import annotations

import os
import select
import subprocess
from pathlib import Path
from typing import Final

from migrator.core.errors import RuntimeFailed
from migrator.freezer import Freezer

CONFIG: Final = "criu.conf"
_SCRIPT: Final = """\
#!/bin/sh
[ "$CRTOOLS_SCRIPT_ACTION" = pre-resume ] || exit 0
echo "$CRTOOLS_INIT_PID $PPID $$" >'{directory}/restored' && read go <'{directory}/go'
"""


class Latch:
    """For one restore; use as a context manager around it."""

    def __init__(self, directory: Path, options: str) -> None:
        """Its files go into DIRECTORY, among them a configuration of CRIU with OPTIONS besides."""
        self._directory = directory
        self.config = directory / CONFIG
        script = directory / "latch"
        script.write_text(_SCRIPT.format(directory=directory))
        script.chmod(0o755)
        self.config.write_text(f"{options}action-script {script}\n")
        self._restored, self._go = (self._pipe(name) for name in ("restored", "go"))

    def _pipe(self, name: str) -> int:
        """Open at both ends, so that neither side waits for the other to open it."""
        os.mkfifo(self._directory / name)
        return os.open(self._directory / name, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)

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
        ended = os.pidfd_open(process.pid)
        try:
            ready = select.select([self._restored, ended], [], [], seconds)[0]
        finally:
            os.close(ended)
        if self._restored not in ready:
            return None
        text = os.read(self._restored, 64)
        try:
            restored, *working = map(int, text.split())
        except ValueError:
            raise RuntimeFailed(f"CRIU tells no process that it has restored: {text!r}") from None
        freezer = Freezer.of(restored)
        for pid in working:
            freezer.exempt(pid)
        freezer.order()
        os.write(self._go, b"\n")
        return freezer
