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
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from migrator import images, procs, times
from migrator.core import limits
from migrator.core.address import join_address
from migrator.core.argv import RuntimeCommand
from migrator.core.errors import RuntimeFailed
from migrator.core.plan import Container, ImagePiece
from migrator.door import Door
from migrator.freezer import Freezer
from migrator.listening import Listening
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
        self._begun = False  # CRIU, that is: before, nothing of the container was touched
        self._touching = False  # from reading times to putting them back
        self.pages = join_address(serve_on, _free_port(serve_on)) if serve_on else ""
        self._freezer = Freezer(Path(container.cgroup))
        with ExitStack() as undo:
            self._listening = Listening(container.pid)
            undo.callback(self._listening.close)
            self._door = Door(room.work)
            undo.callback(self._door.close)
            self._until_dumped = undo.pop_all()
        self._ready = -1  # the end of a pipe; it can be read when all but the pages is there
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
            process = self._start(self._command.pre_dump(self._container.name, directory, self._room.work, parent))
            yield from outgoing.follow(process)
            if process.wait() != 0:
                raise self._failure()
            yield from outgoing.finish()
        finally:
            outgoing.close()

    def stand_by(self) -> None:
        """See ports.Dump."""
        name, room = self._container.name, self._room
        if not self.pages:
            self._wait_at_door(self._command.checkpoint(name, room.images, room.work, self._parent()))
            return
        self._ready, writer = os.pipe()
        self._until_dumped.callback(os.close, self._ready)
        try:
            argv = self._command.checkpoint_lazily(name, room.images, room.work, self.pages, writer)
            self._wait_at_door(argv, keep=(writer,))
        finally:
            os.close(writer)

    def _wait_at_door(self, argv: list[str], keep: tuple[int, ...] = ()) -> None:
        process = self._start(argv, keep, **self._door.environment)
        if not self._door.wait(process, limits.PAUSE_SECONDS):
            process.wait()
            raise self._failure()

    def pause(self) -> None:
        """See ports.Dump. Whether all were accepted is only certain while nobody runs."""
        began = time.monotonic()
        drains_until = began + limits.DRAIN_SECONDS
        self._freezer.freeze(limits.PAUSE_SECONDS)
        while True:
            now = time.monotonic()
            if self._freezer.starting:
                drains_until = now + limits.DRAIN_SECONDS  # it was let go, and connections came
                if now > began + limits.VFORK_SECONDS:
                    self._freezer.thaw()
                    raise RuntimeFailed(
                        f"a task of container {self._container.name} always waits for a program that it starts (vfork)",
                        remedy="CRIU cannot dump that: try again when it starts fewer programs",
                    )
            elif now > drains_until or not self._listening.unaccepted():
                return
            self._freezer.thaw()
            time.sleep(limits.DRAIN_LOOK_SECONDS)
            self._freezer.freeze(limits.PAUSE_SECONDS)

    def pieces(self) -> Iterator[ImagePiece]:
        """See ports.Dump."""
        assert self._outgoing is not None
        assert self._process is not None
        self._touched = times.read(self._container.root)
        self._touching = True
        try:
            with self._turn:
                self._check_wanted()
                self._begun = True
            self._door.open()
            yield from self._outgoing.follow(self._process, self._ready)
            if self.pages:
                self._leave_serving()
            elif self._process.wait() != 0:
                raise self._failure()
            yield from self._outgoing.finish()
        finally:
            self._put_times_back()
            self._until_dumped.close()

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
            if not self._begun or (self._room.work / SERVING).exists():
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
            self._until_dumped.close()
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

    def _start(self, argv: list[str], keep: tuple[int, ...] = (), **environment: str) -> subprocess.Popen[bytes]:
        with self._turn, open(self._room.work / "runtime.log", "wb") as log:
            self._check_wanted()
            self._process = self._tool.start(argv, log, None, keep, **environment)
            return self._process

    def _check_wanted(self) -> None:
        if self._stopped:
            raise RuntimeFailed(f"dumping container {self._container.name} was given up")

    def _leave_serving(self) -> None:
        """Images are there, all but the pages; CRIU goes on, in a session of its own, and outlives the agent."""
        assert self._process is not None
        if not os.read(self._ready, 1):
            self._process.wait()
            raise self._failure()
        with self._turn:
            if self._stopped:
                raise self._failure()
            self._freezer.freeze(limits.PAUSE_SECONDS)
            (self._room.work / SERVING).touch()

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
