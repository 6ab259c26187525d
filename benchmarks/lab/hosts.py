"""Hosts on a wire: several real, separate Linux hosts on one machine, which vanish without a trace.

A `Lab` holds one `Wire` (a bridge in a network namespace of its own) and any number of `Host`s, each with its own
processes, mounts, network, host name, cgroups and disk directory. No name is taken in the machine's own namespaces:
labs run side by side, and whatever happens to the process that owns a lab, its hosts end with it (see `keeper`).

    with Lab() as lab:
        a, b = lab.host("a"), lab.host("b")
        a.run(["ping", "-c1", b.address])
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Final, Self, TypeVar

from benchmarks.lab import cgroups, keeper, syscalls
from benchmarks.lab.node import COMMAND_SECONDS, START_SECONDS, LabError, Node

T = TypeVar("T")

BASE: Final = Path("/var/tmp/voyager-lab")  # a real disk: /tmp may be memory, and disks are what we measure
PREFIX: Final = 24
GATEWAY: Final = "10.77.0.254"  # the wire's own address: a default route that is the same on every host

_ENTER: Final = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWCGROUP
    | syscalls.CLONE_NEWPID
)
_REPOSITORY: Final = Path(__file__).resolve().parents[2]


class Wire(Node):
    """The switch: a bridge that all hosts of a lab are plugged into."""

    def __init__(self, owner: int) -> None:
        """A bridge in a network namespace of its own."""
        super().__init__(keeper.Config(name="wire", owner=owner))
        self.ip(
            "link set lo up",
            "link add wire type bridge forward_delay 0 stp_state 0 mcast_snooping 0",
            "link set wire up",
            f"addr add {GATEWAY}/{PREFIX} dev wire",
        )


class Host(Node):
    """A host: see the module. `data` is the one directory that is its own and on a real disk."""

    data: Final = PurePosixPath(keeper.DATA)

    def __init__(self, name: str, number: int, lab: Lab) -> None:
        """Use `Lab.host`. NUMBER is the last byte of its address."""
        self.number = number
        self.address = f"10.77.0.{number}"
        self._wire = lab.wire
        self.directory = lab.directory / name
        while not self.directory.exists():  # keepers of other hosts remove empty parents, also just now
            with contextlib.suppress(FileNotFoundError):
                self.directory.mkdir(parents=True)
        cgroup = f"voyager-lab-{lab.id}-{name}"
        try:
            super().__init__(
                keeper.Config(
                    name=name,
                    owner=lab.owner,
                    directory=str(self.directory),
                    hide=str(lab.directory.parent),
                    keep=sorted({str(_REPOSITORY), sys.prefix, sys.base_prefix}),
                    cgroup=cgroup,
                )
            )
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        groups = " ".join(shlex.quote(group.procs) for group in cgroups.hierarchies(cgroup))
        self._prelude = f'for group in {groups}; do echo 0 >"$group" || exit 126; done; exec "$@"'
        try:
            self._plug(number, lab.wire)
        except BaseException:
            super().kill()
            raise

    def kill(self) -> None:
        """A power cut: nobody hears a word more, and all that the host was is gone on return.

        Unplugged first, because a dying process's kernel would still close its connections politely, and the network
        of a dead host goes on answering until the kernel finds time to remove it.
        """
        if self._keeper.poll() is None:
            self._wire.ip(f"link del port{self.number}")
        super().kill()

    def _plug(self, number: int, wire: Wire) -> None:
        # The order keeps the first second usable: a bridge that is up before its port's carrier is known learns of it
        # with up to a second's delay, and drops its own frames until then. So does a veth, if both ends have the same
        # index by chance.
        port = f"port{number}"
        self.ip(
            "link set lo up",
            f"link add br0 address 02:77:00:00:01:{number:02x} type bridge forward_delay 0 stp_state 0 "
            "mcast_snooping 0",
            f"link add uplink index {1000 + number} address 02:77:00:00:02:{number:02x} master br0 type veth "
            f"peer name {port} netns {wire.netns}",
        )
        wire.ip(f"link set {port} master wire up")
        self.ip("link set uplink up")
        self._wait_up("uplink")
        self.ip("link set br0 up", f"addr add {self.address}/{PREFIX} dev br0")
        self._wait_up("br0")

    def _wait_up(self, interface: str) -> None:
        state = self.path_of(f"/sys/class/net/{interface}/operstate")
        deadline = time.monotonic() + START_SECONDS
        while state.read_text().strip() != "up":
            if time.monotonic() > deadline:
                raise LabError(f"{interface} of host {self.name} does not come up")
            time.sleep(0.001)

    def call(self, function: Callable[[], T]) -> T:
        """Run FUNCTION in this process but *on* the host: its files, network and PID namespace for children.

        It runs in a thread of its own, which enters the host and is thrown away; it must not start threads.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                syscalls.unshare(
                    syscalls.CLONE_FS
                )  # a mount namespace cannot be entered with a shared working directory
                syscalls.setns(self._pidfd, _ENTER)
                results.append(function())
            except BaseException as error:  # handed to the caller below
                errors.append(error)

        thread = threading.Thread(target=enter, name=f"on-{self.name}")
        try:
            thread.start()
            thread.join()
        except BaseException:  # ctrl-C: what the thread is about to start must be known when the host is killed
            if thread.ident is not None:
                thread.join()
            raise
        if errors:
            raise errors[0]
        return results[0]

    def popen(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.Popen[str]:
        """Start a program on the host. ENV adds to the caller's environment; a text-mode `Popen` comes back.

        The process is a direct child: its pid, signals and exit status are the program's own, and it dies with the
        host. A program that is not found gives exit status 127.
        """
        command = ["/bin/sh", "-c", self._prelude, "sh", *(os.fspath(word) for word in argv)]

        def start() -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pass_fds=pass_fds,
                text=True,
                start_new_session=True,
            )
            with self._lock:
                self._processes = [known for known in self._processes if known.poll() is None]
                self._processes.append(process)
            return process

        return self.call(start)

    def run(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        check: bool = True,
        input: str | None = None,
        timeout: float = COMMAND_SECONDS,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end. With CHECK, failure raises `LabError` with its stderr.

        A program that leaves a daemon behind must give it other outputs than its own, or this waits for the daemon.
        """
        with self.popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                process.kill()
                raise
        if check and process.returncode != 0:
            words = shlex.join(os.fspath(word) for word in argv)
            raise LabError(f"on {self.name}: {words}: status {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def cut(self) -> None:
        """Unplug the host from the wire."""
        self.ip("link set uplink down")

    def mend(self) -> None:
        """Plug it in again."""
        self.ip("link set uplink up")

    def path_of(self, inside: str | PurePosixPath) -> Path:
        """Where the file INSIDE the host is, for a process outside: on disk below `data`, else through /proc."""
        path = PurePosixPath(inside)
        if path.is_relative_to(self.data):
            return self.directory / path.relative_to(self.data)
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/")


class Lab:
    """A wire with hosts on it. A context manager; on exit, all of it is gone."""

    def __init__(self, base: Path = BASE) -> None:
        """BASE: a directory on a real disk, common to all labs and hidden from all hosts."""
        self.id = secrets.token_hex(4)
        self.directory = base / self.id
        self.hosts: dict[str, Host] = {}
        self._plugged = 0  # not len(hosts): the name of a killed host may come again, with a new address

    def __enter__(self) -> Self:
        """Create the wire."""
        Path(keeper.DATA).mkdir(parents=True, exist_ok=True)  # a mount point in the hosts' read-only root
        self.owner = os.pidfd_open(os.getpid())
        try:
            self.wire = Wire(self.owner)
        except BaseException:
            os.close(self.owner)
            raise
        return self

    def host(self, name: str) -> Host:
        """Plug in one more host."""
        self._plugged += 1
        host = Host(name, self._plugged, self)
        self.hosts[name] = host
        return host

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End all hosts, then the wire."""
        nodes: list[Node] = [*self.hosts.values(), self.wire]
        for node in nodes:
            node.signal_end()
        with contextlib.ExitStack() as stack:  # each is tried, whatever the others raise
            stack.callback(os.close, self.owner)
            for node in nodes:
                stack.callback(Node.kill, node)  # not a host's own kill: the wire may be dead already
