"""The scene: two hosts of the laboratory, the trees, the servers, and the wires between them.

On one host everything is loopback; a wire of some rate joins two. Processes, mounts, networks and files end with the
hosts, and the hosts with this process, however it ends.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.fs import data, sampling
from benchmarks.lab import tls
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.node import LabError

BIN: Final = Path(sys.prefix) / "bin"
EXAMPLES: Final = Path("/usr/share/doc/libfuse3-dev/examples")
TREES: Final = Host.data / "trees"
TOOLS: Final = Host.data / "tools"
WORK: Final = Host.data / "work"  # of one measurement, removed after it
Words = list[str | os.PathLike[str]]  # of a command

LONG: Final = 1800.0  # seconds; the bound of what hangs
DESCRIPTORS: Final = 20_000

VOYFS_PORT: Final = 7400
RAW_PORT: Final = 7500
SSH_PORT: Final = 7522
RSYNC_PORT: Final = 7873


@dataclass(frozen=True)
class Wire:
    """How the reader reaches the source."""

    name: str
    rtt_ms: float | None = None  # through the relay, even if it is 0
    gbit: float | None = None  # between two hosts


LOOPBACK: Final = Wire("loopback")
RELAYED: Final = tuple(Wire(f"{rtt} ms", rtt_ms=rtt) for rtt in (0, 2, 14))
LINKS: Final = tuple(Wire(f"{gbit} Gbit/s", gbit=gbit) for gbit in (1, 10))


@dataclass(frozen=True)
class Far:
    """A server as the reader sees it."""

    reader: Host
    address: str
    port: int

    @property
    def at(self) -> str:
        """HOST:PORT."""
        return f"{self.address}:{self.port}"


class Scene:
    """A context manager; see the module."""

    # Ours and voyfs' modules come from the very tree that this runs from.
    environment: Final = {"PYTHONPATH": str(data.REPOSITORY)}

    def __init__(self, sizes: data.Sizes, quiet: float, *, first: bool = False) -> None:
        """QUIET: seconds to wait for a quiet machine before each sample. FIRST: take processors from others."""
        self.sizes = sizes
        self.quiet = quiet
        self._first = first
        self._made: set[str] = set()
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._ports: dict[str, int] = {}
        self._free = itertools.count(VOYFS_PORT)
        self._has_tls = False
        self._numbers = 0

    def __enter__(self) -> Self:
        """Both hosts and the tools."""
        _raise_limit()
        with ExitStack() as stack:
            self.lab = stack.enter_context(Lab())
            self.a, self.b = self.lab.host("a"), self.lab.host("b")
            for host in (self.a, self.b):
                for directory in (TREES, TOOLS):
                    host.path_of(directory).mkdir()
                if self._first:
                    _go_first(host)
            self._compile()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove all of it."""
        self._stack.__exit__(kind, error, traceback)

    def _compile(self) -> None:
        """The load generator, and libfuse's pass-through where its source is."""
        tools = self.a.path_of(TOOLS)
        _cc(Path(__file__).with_name("work.c"), tools / "work")
        self.has_passthrough = (EXAMPLES / "passthrough_ll.c").exists()
        if self.has_passthrough:
            flags = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
            _cc(EXAMPLES / "passthrough_ll.c", tools / "passthrough_ll", *flags.stdout.split())
        shutil.copytree(tools, self.b.path_of(TOOLS), dirs_exist_ok=True)

    # -- data -------------------------------------------------------------------------------

    def tree(self, name: str) -> PurePosixPath:
        """The tree NAME on host a; made when first asked for."""
        path = self.a.path_of(TREES / name)
        if name not in self._made:
            sizes = self.sizes
            match name:
                case "big":
                    data.random_file(path / "big", sizes.big_mib)
                case "probe":  # so deep that hydration comes to the probed file last
                    for number in range(4):
                        data.random_file(path / f"big-{number}", sizes.big_mib // 4)
                    data.random_file(path / "z/z/z/probe", max(128, sizes.big_mib // 8))
                case "patch":
                    data.random_file(path / "big", sizes.big_mib)
                    (path / "small").write_bytes(os.urandom(128 << 10))
                case "root":
                    data.root(path, sizes.root_files)
                case "small":
                    data.small_files(path, sizes.small_files)
                case "sparse":
                    data.sparse_file(path / "sparse")
                case "database":
                    data.database(path, sizes.database_rows)
                case "empty":
                    path.mkdir()
                case "sources":
                    data.small_files(path, 5000)
                case "repository":
                    data.repository(path, self.a.path_of(self.tree("sources")))
                case other:
                    raise ValueError(other)
            os.sync()
            self._made.add(name)
        return TREES / name

    def files_of(self, name: str) -> tuple[PurePosixPath, int]:
        """A list of the regular files of a tree, and how many there are."""
        files = data.regular_files(self.a.path_of(self.tree(name)))
        files = [file for file in files if "\n" not in file]
        listed = TREES / f"{name}.list"
        self.a.path_of(listed).write_text("".join(f"{file}\n" for file in files))
        return listed, len(files)

    def size_of(self, name: str) -> int:
        """Bytes in the regular files of a tree."""
        path = self.a.path_of(self.tree(name))
        return sum((path / file).stat().st_size for file in data.regular_files(path))

    def drop(self, name: str) -> None:
        """Remove a tree that is not needed any more."""
        for server in [server for server in self._servers if server.startswith(f"voyfs-{name}-")]:
            self.stop(server)
        self._made.discard(name)
        shutil.rmtree(self.a.path_of(TREES / name), ignore_errors=True)

    def work_directory(self, host: Host) -> PurePosixPath:
        """A new empty directory on HOST."""
        self._numbers += 1
        path = PurePosixPath(f"{WORK}-{self._numbers}")
        host.path_of(path).mkdir()
        return path

    # -- caches -----------------------------------------------------------------------------

    def settle(self, *warm: Path) -> float:
        """Write everything down, empty all caches of the machine, read WARM in again, and wait until it is quiet.

        Gives the share of the processors that others use.
        """
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        for path in warm:
            subprocess.run(
                ["find", path, "-type", "f", "-size", "-4G", "-exec", "cat", "{}", "+"],
                stdout=subprocess.DEVNULL,
                check=True,
            )
        return sampling.wait_quiet(self.quiet)

    # -- servers ----------------------------------------------------------------------------

    def voyfs_server(self, tree: str, wire: Wire) -> int:
        """The port on host a where `voyfs serve` offers a tree; off loopback with mutual TLS, as it insists."""
        name = voyfs_server_name(tree, wire)
        if name not in self._servers:
            self._ports[name] = next(self._free)
            address = self.a.address if wire.gbit else "127.0.0.1"
            words: Words = ["serve", self.tree(tree), "--listen", f"{address}:{self._ports[name]}"]
            self._serve(name, [BIN / "voyfs", *words, *self.tls_options(self.a, wire)])
        return self._ports[name]

    def tls_options(self, host: Host, wire: Wire) -> list[str]:
        """For voyfs on HOST."""
        if not wire.gbit:
            return []
        if not self._has_tls:
            tls.install((self.a, self.b))
            self._has_tls = True
        return list(tls.options(host))

    def raw_server(self) -> int:
        """Its port."""
        if "raw" not in self._servers:
            self._serve("raw", [sys.executable, "-m", "benchmarks.fs.raw_stream", "serve", str(RAW_PORT)])
        return RAW_PORT

    def rsync_server(self) -> int:
        """A daemon without ssh that offers all trees read-only; its port."""
        if "rsync" not in self._servers:
            settings = self.a.path_of(TOOLS / "rsyncd.conf")
            settings.write_text(
                f"use chroot = no\nuid = 0\ngid = 0\n[trees]\npath = {TREES}\nread only = yes\nlog file = /dev/null\n"
            )
            words = ["rsync", "--daemon", "--no-detach", f"--port={RSYNC_PORT}", f"--config={TOOLS}/rsyncd.conf"]
            self._start("rsync", words)
            self._wait_port(RSYNC_PORT)
        return RSYNC_PORT

    def ssh_server(self) -> int:
        """An sshd with keys and settings of its own; its port."""
        if "ssh" not in self._servers:
            tools = self.a.path_of(TOOLS)
            for key in ("host", "user"):
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tools / key], check=True)
            (tools / "authorized").write_text((tools / "user.pub").read_text())
            public = (tools / "host.pub").read_text().split()[:2]
            (tools / "known").write_text(f"* {' '.join(public)}\n")
            (tools / "sshd_config").write_text(
                f"HostKey {TOOLS}/host\nAuthorizedKeysFile {TOOLS}/authorized\nPidFile none\nUsePAM no\n"
                "StrictModes no\nPermitRootLogin prohibit-password\nMaxSessions 50\nSubsystem sftp internal-sftp\n"
            )
            self.a.run(["mkdir", "-p", "/run/sshd"])
            shutil.copytree(tools, self.b.path_of(TOOLS), dirs_exist_ok=True)
            words = ["/usr/sbin/sshd", "-D", "-q", "-p", str(SSH_PORT), "-f", f"{TOOLS}/sshd_config"]
            self._start("ssh", words)
            self._wait_port(SSH_PORT)
        return SSH_PORT

    def voyfs_pid(self, tree: str, wire: Wire) -> int:
        """Of the server that offers TREE to readers over WIRE."""
        return self.server_pid(voyfs_server_name(tree, wire))

    def server_pid(self, name: str) -> int:
        """Of the server NAME."""
        return self._servers[name].pid

    def _start(self, name: str, words: Sequence[str | os.PathLike[str]]) -> subprocess.Popen[str]:
        self._servers[name] = self.a.popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=self.environment
        )
        return self._servers[name]

    def _serve(self, name: str, words: Sequence[str | os.PathLike[str]]) -> None:
        process = self._start(name, words)
        assert process.stdout is not None
        if not process.stdout.readline():
            raise LabError(f"{name} ended with status {process.wait()}")

    def stop(self, name: str) -> None:
        """End a server, if it runs."""
        process = self._servers.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def _wait_port(self, port: int) -> None:
        deadline = time.monotonic() + 20
        while self.a.run(["sh", "-c", f"ss -Hltn sport = :{port} | grep -q ."], check=False).returncode:
            if time.monotonic() > deadline:
                raise LabError(f"nothing listens on port {port}")
            time.sleep(0.05)

    # -- wires ------------------------------------------------------------------------------

    @contextmanager
    def wire(self, wire: Wire, port: int) -> Iterator[Far]:
        """How a reader reaches PORT of host a over WIRE."""
        if wire.gbit is not None:
            with self._shaped(wire.gbit):
                yield Far(self.b, self.a.address, port)
        elif wire.rtt_ms is not None:
            with self._relay(port, wire.rtt_ms) as far_port:
                yield Far(self.a, "127.0.0.1", far_port)
        else:
            yield Far(self.a, "127.0.0.1", port)

    @contextmanager
    def _relay(self, port: int, rtt_ms: float) -> Iterator[int]:
        words = [sys.executable, "-m", "benchmarks.fs.relay", "0", str(port), str(rtt_ms)]
        relay = self.a.popen(words, stdout=subprocess.PIPE, env=self.environment)
        assert relay.stdout is not None
        try:
            yield int(relay.stdout.readline().split()[1])
        finally:
            relay.kill()
            relay.wait()
            relay.stdout.close()

    @contextmanager
    def _shaped(self, gbit: float) -> Iterator[None]:
        """The wire carries GBIT a second from host a."""
        # A burst of one tick's worth, so that the rate is kept by a timer of 250 Hz as well.
        burst = int(gbit * 1e9 / 8 / 250)
        shape = ["htb", "default", "1"]
        classes = [f"{gbit}gbit", "burst", str(burst), "cburst", str(burst), "quantum", "60000"]
        self.a.run(["tc", "qdisc", "add", "dev", "uplink", "root", "handle", "1:", *shape])
        self.a.run(["tc", "class", "add", "dev", "uplink", "parent", "1:", "classid", "1:1", "htb", "rate", *classes])
        try:
            yield
        finally:
            self.a.run(["tc", "qdisc", "del", "dev", "uplink", "root"], check=False)


def voyfs_server_name(tree: str, wire: Wire) -> str:
    """Of the server that offers TREE to readers over WIRE."""
    return f"voyfs-{tree}-{'tls' if wire.gbit else 'plain'}"


def work(host: Host, *words: str | os.PathLike[str]) -> list[float]:
    """Run the load generator on HOST; the numbers of its last line: seconds, and bytes where it has any."""
    result = host.run([TOOLS / "work", *words], timeout=LONG)
    return [float(word) for word in result.stdout.splitlines()[-1].split()]


def voyfs_status(host: Host, store: PurePosixPath) -> dict[str, Any]:
    """What the mount says of itself."""
    result = host.run([BIN / "python", "-c", _ASK, str(store)])
    status: dict[str, Any] = json.loads(result.stdout)
    return status


_ASK: Final = """
import json, pathlib, sys
from voyfs import control
print(json.dumps(control.ask(pathlib.Path(sys.argv[1]), "status")["status"]))
"""


def _go_first(host: Host) -> None:
    """What is measured comes before others' work, where the machine has processor shares; ratios keep their worth."""
    group = f"voyager-lab-{host.directory.parent.name}-{host.name}"
    for file, value in (("cpu.shares", "32768"), ("cpu.weight", "3200")):
        for path in Path("/sys/fs/cgroup").glob(f"*/**/{group}/{file}"):
            path.write_text(value)


def _cc(source: Path, program: Path, *flags: str) -> None:
    done = subprocess.run(["cc", "-O2", "-o", program, source, *flags], capture_output=True, text=True)
    if done.returncode:
        raise LabError(f"{source.name} does not compile: {done.stderr}")


def _raise_limit() -> None:
    """The C pass-through holds a descriptor for each file."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard < DESCRIPTORS else DESCRIPTORS, hard))
