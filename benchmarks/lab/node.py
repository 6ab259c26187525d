"""What a wire and a host of the laboratory have in common: namespaces with an init, and a keeper that cleans up."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import threading
import time
from typing import IO, Any, Final

from benchmarks.lab import keeper

START_SECONDS: Final = 30.0  # a host starts in 0.1 s; the rest is for a machine busy with other test runs
STOP_SECONDS: Final = 60.0  # as above, and removing some GiB of files
COMMAND_SECONDS: Final = 60.0


class LabError(RuntimeError):
    """The laboratory itself failed, not what is tested in it."""


class Node:
    """A set of namespaces with an init in it: what a wire and a host have in common."""

    def __init__(self, config: keeper.Config) -> None:
        """Start the keeper and wait until its init is ready; raises `LabError`, leaving nothing behind."""
        self.name = config.name
        self._processes: list[subprocess.Popen[Any]] = []
        self._pidfd = -1
        self._lock = threading.Lock()
        self._keeper = subprocess.Popen(
            keeper.command(config),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            pass_fds=[config.owner],
            start_new_session=True,  # ctrl-C is for the owner; the keeper must live to clean up
        )
        try:
            answer = _read_line(self._keeper.stdout, START_SECONDS)
            reply = json.loads(answer or '{"error": "the keeper ended or did not answer"}')
            if "error" in reply:
                raise LabError(f"host {config.name} did not start: {reply['error']}")
            self.pid: int = reply["pid"]
            self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._keeper.pid, signal.SIGINT)  # the init alone ends by it, and the keeper cleans up
            self._keeper.wait(STOP_SECONDS)
            raise
        finally:
            assert self._keeper.stdout is not None
            self._keeper.stdout.close()

    @property
    def netns(self) -> str:
        """Path of the network namespace, valid outside while the node lives."""
        return f"/proc/{self.pid}/ns/net"

    def ip(self, *commands: str) -> None:
        """Run `ip` commands, given as in `ip -batch`, in the node's network namespace."""
        result = subprocess.run(
            ["nsenter", f"--net={self.netns}", "ip", "-batch", "-"],
            input="\n".join(commands),
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        if result.returncode != 0:
            raise LabError(f"ip on {self.name}: {result.stderr.strip()}")

    def signal_end(self) -> None:
        """Pull the plug without waiting for the effect."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def kill(self) -> None:
        """Pull the plug: all processes, mounts, interfaces, cgroups and files of the node are gone on return."""
        self.signal_end()
        deadline = time.monotonic() + STOP_SECONDS
        while self._keeper.poll() is None:
            # A PID namespace ends only when its last zombie is reaped, and those we started are ours to reap.
            for process in list(self._processes):
                process.poll()
            if time.monotonic() > deadline:
                raise LabError(f"host {self.name} does not end")
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._keeper.wait(0.01)
        for process in self._processes:
            process.wait(STOP_SECONDS)
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


def _read_line(stream: IO[bytes] | None, seconds: float) -> str:
    """One short line from a fresh pipe, or nothing if it does not come in time."""
    assert stream is not None
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        return stream.readline().decode() if selector.select(seconds) else ""
