"""One container being dumped by an OCI runtime (ports.Dump).

It must not know of networks, peers or the order of a migration.

Pages that are to follow later are served by CRIU itself, which holds the tasks by ptrace meanwhile and has thawed their
group to do its work. So the group is frozen again as soon as the images are there: whatever becomes of CRIU, its tasks
stand still.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from migrator import images, procs, times
from migrator.core import limits
from migrator.core.address import join_address
from migrator.core.argv import RuntimeCommand
from migrator.core.errors import RuntimeFailed
from migrator.core.plan import Container, ImagePiece
from migrator.freezer import Freezer
from migrator.tools import Tool, first_line, wait_or_kill

SERVING: Final = "serving"  # in the work directory, once only pages are left to be sent


class RuntimeDump:
    """See ports.Dump."""

    def __init__(
        self, command: RuntimeCommand, tool: Tool, container: Container, room: images.Room, serve_on: str = ""
    ) -> None:
        """All that can be made before the freeze. SERVE_ON: the host that pages are fetched from after it, if any."""
        self._command = command
        self._tool = tool
        self._container = container
        self._room = room
        self._outgoing: images.Outgoing | None = images.Outgoing(room.images)
        self._touched: dict[str, int] = {}
        self._rounds = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Pieces are pulled by another thread than the one that stops it, and when that notices is its own affair.
        self._turn = threading.Lock()
        self._stopped = False
        self._touching = False  # from reading times to putting them back
        self.pages = join_address(serve_on, _free_port(serve_on)) if serve_on else ""
        times.know(container.root)

    def round(self) -> Iterator[ImagePiece]:
        """See ports.Dump."""
        parent = self._parent()
        self._rounds += 1
        place = images.round_name(self._rounds)
        directory = self._room.directory / place
        directory.mkdir()
        outgoing = images.Outgoing(directory, f"{place}/")
        try:
            argv = self._command.pre_dump(self._container.name, directory, self._room.work, parent)
            yield from self._run(argv, outgoing)
        finally:
            outgoing.close()

    def pieces(self) -> Iterator[ImagePiece]:
        """See ports.Dump."""
        assert self._outgoing is not None
        name, room = self._container.name, self._room
        self._touched = times.read(self._container.root)
        self._touching = True
        try:
            if self.pages:
                yield from self._serve(self._outgoing)
            else:
                argv = self._command.checkpoint(name, room.images, room.work, self._parent())
                yield from self._run(argv, self._outgoing)
        finally:
            self._put_times_back()

    def touched(self) -> Mapping[str, int]:
        """See ports.Dump."""
        return self._touched

    def check(self) -> None:
        """See ports.Dump."""
        if self._process is not None and self._process.poll():
            raise self._failure()

    def stop(self) -> None:
        """See ports.Dump. CRIU is not killed before it serves: a task that it leaves half-way is lost."""
        with self._turn:
            self._stopped = True
        if self._process is not None:
            directory = str(self._room.directory)
            if (self._room.work / SERVING).exists():
                procs.kill_users(directory)
            else:
                self._process.kill()
                self._room.close()
            if self._process.poll() is None:
                wait_or_kill(self._process, limits.PAUSE_SECONDS)
            procs.wait_unused(directory, limits.RUNTIME_SECONDS)
            self._process = None
        self._put_times_back()

    def discard(self) -> None:
        """See ports.Dump. Pages that are being served go on being served, and the room with them."""
        if self._outgoing is not None:
            self._outgoing.close()
            self._outgoing = None
            if self._process is None or self._process.poll() is not None:
                self._room.remove()

    def _parent(self) -> str:
        """The round before, as CRIU wants it: seen from the directory of the next images."""
        return f"../{images.round_name(self._rounds)}" if self._rounds else ""

    def _put_times_back(self) -> None:
        with self._turn:
            if self._touching:
                times.restore(self._container.root, self._touched)
            self._touching = False

    def _start(self, argv: list[str], keep: tuple[int, ...] = ()) -> subprocess.Popen[bytes]:
        with self._turn, open(self._room.work / "runtime.log", "wb") as log:
            if self._stopped:
                raise RuntimeFailed(f"dumping container {self._container.name} was given up")
            self._process = self._tool.start(argv, log, keep=keep)
            return self._process

    def _run(self, argv: list[str], outgoing: images.Outgoing) -> Iterator[ImagePiece]:
        process = self._start(argv)
        yield from outgoing.follow(process)
        if process.wait() != 0:
            raise self._failure()
        yield from outgoing.finish()

    def _serve(self, outgoing: images.Outgoing) -> Iterator[ImagePiece]:
        """All images but the pages; CRIU goes on, in a session of its own, and outlives the agent."""
        reader, writer = os.pipe()
        work = self._room.work
        argv = self._command.checkpoint_lazily(self._container.name, self._room.images, work, self.pages, writer)
        try:
            process = self._start(argv, keep=(writer,))
            os.close(writer)
            writer = -1
            yield from outgoing.follow(process, reader)
            if not os.read(reader, 1):
                process.wait()
                raise self._failure()
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)
        with self._turn:
            if self._stopped:
                raise self._failure()
            Freezer(Path(self._container.cgroup)).freeze(limits.PAUSE_SECONDS)
            (work / SERVING).touch()
        yield from outgoing.finish()

    def _failure(self) -> RuntimeFailed:
        said = "\n".join(self._room.log_tail("runtime.log"))
        return RuntimeFailed(
            f"dumping container {self._container.name} failed: {first_line(said, last=True)}",
            remedy="CRIU's log above names what it cannot dump",
            log=self._room.log_tail("dump.log") or self._room.log_tail("runtime.log"),
        )


def _free_port(host: str) -> int:
    """One that nobody listens on just now; who takes it meanwhile makes the dump fail, and the container goes on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])
