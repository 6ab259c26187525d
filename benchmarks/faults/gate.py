"""Where a program waits until the harness lets it go on; both ends of it.

The harness names one point in WANTED; whoever comes to that point says so on the socket SOCKET and waits. Run as a
program (standard library alone) it is what CRIU calls at each of its stages.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from pathlib import Path
from typing import Final

DIRECTORY: Final = Path("/run/faults")
WANTED: Final = "wanted"
SOCKET: Final = "gate.sock"
SCRIPT: Final = "criu"


def pass_by(name: str, directory: Path = DIRECTORY) -> None:
    """Wait here if this point is the wanted one, until told to go on, or the harness is gone."""
    try:
        if (directory / WANTED).read_text() != name:
            return
        with socket.socket(socket.AF_UNIX) as gate:
            gate.connect(str(directory / SOCKET))
            gate.sendall(name.encode())
            gate.recv(1)
    except OSError:
        return


class Gate:
    """The harness's end on one host; DIRECTORY is the host's, seen from outside."""

    def __init__(self, directory: Path) -> None:
        """Nobody is stopped yet."""
        self._directory = directory
        directory.mkdir(exist_ok=True)
        # CRIU calls it at each of its stages, within the freeze: a shell alone decides whether there is more to do.
        script = directory / SCRIPT
        script.write_text(
            f"#!/bin/sh\n"
            f'[ "$(cat {DIRECTORY}/{WANTED} 2>/dev/null)" = "criu $CRTOOLS_SCRIPT_ACTION" ] &&\n'
            f'    {sys.executable} -I -S {__file__} "criu $CRTOOLS_SCRIPT_ACTION"\n'
            "exit 0\n"
        )
        script.chmod(0o755)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / SOCKET))
        self._listener.listen()
        self._stopped: socket.socket | None = None

    def want(self, name: str) -> None:
        """Stop whoever comes to this point from now on."""
        temporary = self._directory / "wanted.new"
        temporary.write_text(name)
        temporary.rename(self._directory / WANTED)

    def wait(self, seconds: float, over: int) -> bool:
        """Whether somebody is stopped, within SECONDS and before the descriptor OVER can be read."""
        ready = select.select([self._listener.fileno(), over], [], [], seconds)[0]
        if self._listener.fileno() not in ready:
            return False
        self._stopped = self._listener.accept()[0]
        return bool(self._stopped.recv(100))

    def open(self) -> None:
        """Nobody is stopped any more."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / WANTED)
        if self._stopped is not None:
            self._stopped.close()
            self._stopped = None
        while select.select([self._listener], [], [], 0)[0]:
            self._listener.accept()[0].close()

    def close(self) -> None:
        """The end."""
        self.open()
        self._listener.close()


if __name__ == "__main__":
    pass_by(sys.argv[1])
