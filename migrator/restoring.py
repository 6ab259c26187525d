"""One container being restored by an OCI runtime: its bundle, its images, and the held copy (ports.Restore).

It must not know of networks, disks or the order of a migration.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from migrator import images, procs
from migrator.core import limits, timers
from migrator.core.argv import RuntimeCommand, lazy_pages
from migrator.core.errors import Lost, NoSpace, RuntimeFailed
from migrator.core.plan import ImagePiece, Order, Progress
from migrator.freezer import Freezer
from migrator.latch import Latch
from migrator.lazy import LazyPages
from migrator.tools import Tool, first_line

OUTPUT: Final = "output.log"  # in the bundle: what a container writes that had pipes on the source


class RuntimeRestore:
    """See ports.Restore."""

    def __init__(
        self,
        command: RuntimeCommand,
        tool: Tool,
        container: str,
        directory: Path,
        room: images.Room,
        destroy: Callable[[str, str], None],
    ) -> None:
        """DESTROY kills and forgets a container of the runtime with a given bundle, safely."""
        self._command = command
        self._tool = tool
        self._container = container
        self._directory = directory
        self.room = room
        self._destroy = destroy
        self._log = room.work / "runtime.log"  # there since the restore began; an agent that comes after us sees it too
        self._incoming = images.Incoming(room)
        self._pages = LazyPages(room)
        self._freezer: Freezer | None = None
        self._stdio: tuple[int, int, int] | None = None

    def make_bundle(self, config: Mapping[str, Any], order: Order) -> None:
        """Everything in the bundle but the root, which is there already."""
        try:
            (self._directory / "config.json").write_text(json.dumps(config, indent=2))
            files = self._directory / "files"
            files.mkdir()
            for number, place in enumerate(sorted(order.files)):
                (files / str(number)).write_bytes(order.files[place])
        except OSError as error:
            raise NoSpace(f"cannot write the bundle {self._directory}: {error.strerror}") from error
        if order.pipes:
            self._stdio = self._make_stdio()
        if order.memory_follows:
            self._pages.stand_by(self._tool.environment)

    def accept(self, piece: ImagePiece) -> int:
        """See ports.Restore."""
        return self._incoming.accept(piece)

    def restore(self, pages: str = "") -> None:
        """See ports.Restore."""
        room = self.room
        self._mend_images()
        if pages:
            self._pages.start(self._tool.environment, lazy_pages(pages, room.images, room.work))
        argv = self._command.restore(
            self._container, self._directory, room.images, room.work, room.work / "pid", lazily=bool(pages)
        )
        options = Path(self._tool.environment["CRIU_CONFIG_FILE"]).read_text()
        with open(self._log, "wb") as log, Latch(room.work, options) as latch:
            process = self._tool.start(argv, log, self._stdio, CRIU_CONFIG_FILE=str(latch.config))
            try:
                self._freezer = latch.freeze(process, limits.RUNTIME_SECONDS)
                status = latch.wait(process, self._freezer, limits.RUNTIME_SECONDS)
            finally:
                self._close_stdio()
        if status != 0:
            raise RuntimeFailed(
                f"restoring container {self._container} on the target failed: "
                f"{first_line(chr(10).join(self.room.log_tail('runtime.log')), last=True) or f'status {status}'}",
                remedy="CRIU's log above names what it cannot restore",
                log=self.room.log_tail("restore.log") or self.room.log_tail("runtime.log"),
            )
        pid = int((self.room.work / "pid").read_text())
        if self._freezer is None:  # a CRIU that calls nobody
            self._freezer = Freezer.of(pid)  # without asking the runtime, which would start a program
        if pages:
            self._pages.guard(pid)  # before the freeze: a task that waits for a page does not freeze without it
        self._freezer.freeze(limits.PAUSE_SECONDS)

    def pages_complete(self, seconds: float) -> bool:
        """See ports.Restore."""
        return self._pages.complete(seconds)

    def pages_progress(self, *, complete: bool) -> Progress:
        """See ports.Restore."""
        return self._pages.progress(complete=complete)

    def _mend_images(self) -> None:
        """See core.timers."""
        path = self.room.images / timers.NAME
        if path.exists():
            image = path.read_bytes()
            if (mended := timers.rearm(image)) != image:
                path.write_bytes(mended)

    def interrupt(self) -> None:
        """See ports.Restore. Tasks that CRIU holds yet would go on at its end, so they are killed before it.

        They are known by whom they belong to, not by their group: a CRIU that an earlier agent started may share its
        own with strangers, such as those of a login session.
        """
        users = procs.users_of(str(self.room.directory))
        tasks = procs.held_by(users)
        procs.kill(tasks)
        procs.kill(users)
        for pid in (*tasks, *users):
            with contextlib.suppress(RuntimeFailed):
                group = Freezer.of(pid)
                if group.ordered:  # the container's, then, and not ours: what is frozen dies only when it is thawed
                    group.kill(limits.KILL_SECONDS)

    def release(self) -> None:
        """See ports.Restore."""
        self._held().thaw()

    def forget_images(self) -> None:
        """See ports.Restore. CRIU's daemon and its guard work in the same room, as long as pages are to come."""
        try:
            complete = self._pages.complete(0)
        except Lost:
            return  # what is there tells so to whoever asks
        if complete:
            self._pages.close()
            self.room.remove()

    def discard(self) -> None:
        """See ports.Restore."""
        self._close_stdio()
        self._pages.close()
        procs.wait_unused(str(self.room.directory), limits.PAUSE_SECONDS)
        if self._log.exists():  # before that, a container of that name is somebody else's, even a broken one
            self._destroy(self._container, str(self._directory))
        self.room.remove()

    def _held(self) -> Freezer:
        """The restored copy's cgroup."""
        if self._freezer is None:
            state = self._tool.run(self._command.state(self._container))
            pid = int(json.loads(state.stdout)["pid"]) if state.returncode == 0 else 0
            if not pid:
                raise RuntimeFailed(f"the restored container {self._container} is gone")
            self._freezer = Freezer.of(pid)
        return self._freezer

    def _make_stdio(self) -> tuple[int, int, int]:
        """Pipes for a container that had pipes: nothing to read, and a file that gets what it writes.

        A program between pipe and file outlives the agent. A file alone would not do: CRIU cannot dump a descriptor
        that points outside of the container, and the container must be able to move on.
        """
        nothing, closed = os.pipe()
        os.close(closed)
        reader, writer = os.pipe()
        with open(self._directory / OUTPUT, "ab") as output:
            subprocess.Popen(["cat"], stdin=reader, stdout=output, stderr=subprocess.DEVNULL, start_new_session=True)
        os.close(reader)
        return nothing, writer, writer

    def _close_stdio(self) -> None:
        if self._stdio is not None:
            os.close(self._stdio[0])
            os.close(self._stdio[1])
            self._stdio = None
