"""One container being dumped by an OCI runtime (ports.Dump).

It must not know of networks, peers or the order of a migration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from migrator import images, times
from migrator.core.argv import RuntimeCommand
from migrator.core.errors import RuntimeFailed
from migrator.core.plan import Container, ImagePiece
from migrator.tools import Tool, first_line


class RuntimeDump:
    """See ports.Dump."""

    def __init__(self, command: RuntimeCommand, tool: Tool, container: Container, room: images.Room) -> None:
        """All that can be made before the freeze."""
        self._argv = command.checkpoint(container.name, room.images, room.work)
        self._tool = tool
        self._container = container
        self._room = room
        self._outgoing: images.Outgoing | None = images.Outgoing(room.images)
        self._touched: dict[str, int] = {}

    def pieces(self) -> Iterator[ImagePiece]:
        """See ports.Dump."""
        assert self._outgoing is not None
        self._touched = times.read(self._container.root)
        with open(self._room.work / "runtime.log", "wb") as log:
            process = self._tool.start(self._argv, log)
            try:
                yield from self._outgoing.follow(process)
            finally:
                process.kill()  # only if nobody wants the rest: it has ended otherwise
                process.wait()
                times.restore(self._container.root, self._touched)
        if process.returncode != 0:
            raise RuntimeFailed(
                f"dumping container {self._container.name} failed: {first_line(self._last(), last=True)}",
                remedy="CRIU's log above names what it cannot dump",
                log=self._room.log_tail("dump.log") or self._room.log_tail("runtime.log"),
            )
        yield from self._outgoing.finish()

    def touched(self) -> Mapping[str, int]:
        """See ports.Dump."""
        return self._touched

    def discard(self) -> None:
        """See ports.Dump."""
        if self._outgoing is not None:
            self._outgoing.close()
            self._outgoing = None
            self._room.remove()

    def _last(self) -> str:
        return "\n".join(self._room.log_tail("runtime.log"))
