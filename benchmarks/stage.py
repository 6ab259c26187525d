"""The scene of the demo and of the benchmarks: two hosts with agents, a container on the first, a third for clients.

Everything on it is what a user would run: `migrator agent` on both hosts with mutual TLS, and `migrator migrate` on
the first. It must not know what is measured or checked.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.lab import bundle, tls
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.node import LabError

NAME: Final = "redis"
AGENT_PORT: Final = 7878
STATE: Final = Host.data / "migrator"
SOCKET: Final = "/run/migrator/agent.sock"
AGENT_LOG: Final = Host.data / "agent.log"
BIN: Final = Path(sys.prefix) / "bin"

Event = dict[str, Any]


class Stage:
    """Hosts `a`, `b` and `c`, and a redis with a disk of some size on `a`. A context manager; on exit all is gone."""

    def __init__(self, disk_mib: int) -> None:
        """DISK_MIB: of data files, besides the container's own root."""
        self.disk_mib = disk_mib
        self._stack = ExitStack()
        self.lab = Lab()

    def __enter__(self) -> Self:
        """Set up the wire and the hosts; nothing runs on them yet."""
        with ExitStack() as stack:
            stack.enter_context(self.lab)
            self.a, self.b, self.c = (self.lab.host(name) for name in ("a", "b", "client"))
            tls.install((self.a, self.b))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove all of it."""
        self._stack.__exit__(kind, error, traceback)

    def start_container(self) -> Container:
        """Make the container's bundle on `a` and start it; its files are on the disk when this returns."""
        self.container = bundle.redis(self.a, NAME, data_mib=self.disk_mib)
        # Gigabytes on their way to the disk would slow down every fsync of what is measured next.
        self.a.run(["sync", "-f", self.container.bundle], timeout=bundle.COPY_SECONDS)
        self.container.start()
        self.container.wait_port(bundle.PORT)
        return self.container

    def start_agents(self) -> None:
        """Start `migrator agent` on both hosts; they answer when this returns."""
        for host in (self.a, self.b):
            words = [
                *(str(BIN / "migrator"), "agent", "--listen", f"{host.address}:{AGENT_PORT}"),
                *("--state", str(STATE), "--socket", SOCKET, "--runtime", "runc", *tls.options(host)),
            ]
            command = f"exec {shlex.join(words)} 2>{AGENT_LOG}"
            agent = host.popen(["sh", "-c", command], stdout=subprocess.PIPE)
            assert agent.stdout is not None
            with agent.stdout as lines:
                if "listens" not in lines.readline():
                    raise LabError(f"the agent of host {host.name} does not start: {self.log_of(host)}")

    def count(self) -> CounterClient:
        """A client on its own host, over one connection; a context manager."""
        return CounterClient(self.c, self.container.network.address, bundle.PORT)

    @property
    def target(self) -> str:
        """What the user types for the second host."""
        return f"{self.b.address}:{AGENT_PORT}"

    def migrate(self, *options: str) -> Iterator[Event]:
        """Run `migrator migrate` on `a`; its events, the last of which is the result or the error."""
        words = [
            str(BIN / "migrator"),
            "migrate",
            self.container.name,
            self.target,
            "--json",
            "--socket",
            SOCKET,
            *options,
        ]
        process = self.a.popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stderr is not None
        last: Event = {}
        with process.stdout as lines, process.stderr as errors:
            for line in lines:
                last = json.loads(line)
                yield last
            said = errors.read()
        if process.wait() == 0 and last.get("event") != "result":
            raise LabError(f"`migrator migrate` ended without a result: {said}")
        if process.returncode != 0 and last.get("event") != "error":
            raise LabError(f"`migrator migrate` ended with status {process.returncode}: {said}")

    def log_of(self, host: Host) -> str:
        """What HOST's agent said."""
        try:
            return host.path_of(AGENT_LOG).read_text(errors="replace")
        except OSError:
            return ""

    @property
    def moved(self) -> Moved:
        """Where the container's files are on `b`; raises `LabError` if they are not there."""
        for line in Path(f"/proc/{self.b.pid}/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            mountpoint, (kind, source, *_) = PurePosixPath(before.split()[4]), after.split()
            if kind == "fuse.voyfs" and mountpoint.is_relative_to(STATE):
                return Moved(mountpoint, PurePosixPath(source))
        raise LabError("there is no voyfs mount on host b")


class Moved:
    """A voyfs mount on the target."""

    def __init__(self, mountpoint: PurePosixPath, store: PurePosixPath) -> None:
        """Both as paths inside the host."""
        self.mountpoint = mountpoint
        self.store = store
