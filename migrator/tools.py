"""Runs the programs that do the work, and tells their failures in one line.

It must not know which programs those are.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from migrator.core import limits
from migrator.core.errors import RuntimeFailed


class Tool:
    """Programs, with additions to the agent's environment. Their stdio is never the agent's."""

    def __init__(self, **environment: str) -> None:
        """ENVIRONMENT is added."""
        self.environment = {**os.environ, **environment, "LC_ALL": "C"}

    def run(self, argv: Sequence[str], seconds: float = limits.RUNTIME_SECONDS) -> subprocess.CompletedProcess[str]:
        """Run to the end; a program that is missing, or does not end in time, gives status 127 or 124."""
        try:
            return subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                env=self.environment,
                timeout=seconds,
                check=False,
            )
        except OSError as error:
            return subprocess.CompletedProcess(list(argv), 127, "", f"{argv[0]}: {error.strerror}")
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(list(argv), 124, "", f"{argv[0]} does not end")

    def output(self, argv: Sequence[str]) -> str:
        """What it prints; empty if it fails."""
        done = self.run(argv)
        return done.stdout if done.returncode == 0 else ""

    def checked(self, argv: Sequence[str], what: str) -> str:
        """What it prints; raises RuntimeFailed, which says WHAT failed."""
        done = self.run(argv)
        if done.returncode != 0:
            raise RuntimeFailed(f"{what} failed: {first_line(done.stderr, last=True) or f'status {done.returncode}'}")
        return done.stdout

    def start(
        self,
        argv: Sequence[str],
        log: IO[bytes],
        stdio: tuple[int, int, int] | None = None,
        keep: Sequence[int] = (),
        **environment: str,
    ) -> subprocess.Popen[bytes]:
        """Start; it writes to LOG, unless STDIO gives it descriptors of its own. It inherits those in KEEP as well.

        ENVIRONMENT is added.
        """
        try:
            return subprocess.Popen(
                argv,
                stdin=stdio[0] if stdio else subprocess.DEVNULL,
                stdout=stdio[1] if stdio else log,
                stderr=stdio[2] if stdio else log,
                env={**self.environment, **environment},
                start_new_session=True,
                pass_fds=keep,
            )
        except OSError as error:
            raise RuntimeFailed(f"cannot start {argv[0]}: {error.strerror}") from error


def named_pipe(path: Path) -> int:
    """A new one, open at both ends, so that neither side waits for the other to open it."""
    os.mkfifo(path)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def first_of(descriptor: int, process: subprocess.Popen[bytes], seconds: float) -> bool | None:
    """Whether DESCRIPTOR can be read before PROCESS has ended; None if neither comes in SECONDS."""
    ended = os.pidfd_open(process.pid)
    try:
        ready = select.select([descriptor, ended], [], [], seconds)[0]
    finally:
        os.close(ended)
    return descriptor in ready if ready else None


def wait_or_kill(process: subprocess.Popen[Any], seconds: float) -> int:
    """Its exit status, at once when it ends; it is killed if it does not in SECONDS.

    `Popen.wait` with a timeout looks every 50 ms, and what ends in between stands still until then.
    """
    descriptor = os.pidfd_open(process.pid)
    try:
        if not select.select([descriptor], [], [], seconds)[0]:
            process.kill()
    finally:
        os.close(descriptor)
    return process.wait()


def first_line(text: str, *, last: bool = False) -> str:
    """The first (or LAST) line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1 if last else 0] if lines else ""
