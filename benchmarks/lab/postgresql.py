"""PostgreSQL in the laboratory: a container with the server, and its own programs as clients."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from benchmarks.lab import bundle
from benchmarks.lab.container import READY_SECONDS, Container
from benchmarks.lab.hosts import Host
from benchmarks.lab.node import LabError
from migrator.inspector import CAP_SYS_RESOURCE, has_capability

PORT: Final = 5432
DATA: Final = "/srv/postgresql"
SHARED_BUFFERS: Final = "32MB"
INIT_SECONDS: Final = 300.0  # some 15 s for a scale of 30 on an idle machine
_PROGRAMS: Final = "/usr/lib/postgresql/17/bin"
_USER: Final = 33  # as in root_user.c
_SERVER: Final = f"""
export PATH={_PROGRAMS}:$PATH
[ -e {DATA}/PG_VERSION ] || {{
    initdb -D {DATA} -U postgres --auth trust --data-checksums --locale C --no-sync &&
    echo 'host all all all trust' >>{DATA}/pg_hba.conf
}} &&
exec postgres -D {DATA} -c listen_addresses='*' -c unix_socket_directories= -c jit=off -c shared_buffers="$1"
"""


def make(host: Host, name: str, *, shared_buffers: str = SHARED_BUFFERS) -> Container:
    """A server of its own user where CRIU can dump that, else of root's who does not know it; not started.

    It makes its database when it starts for the first time.
    """
    argv = ["/bin/sh", "-c", _SERVER, "sh", shared_buffers]
    container = bundle.make(host, name, argv, data_mib=0, root="applications")
    root = host.path_of(container.rootfs)
    place = root / DATA.lstrip("/")
    place.mkdir(0o700)
    host.run(["chown", str(_USER), container.rootfs / DATA.lstrip("/")])
    unprivileged = has_capability(CAP_SYS_RESOURCE)
    if not unprivileged:
        source = Path(__file__).with_name("root_user.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", root / "root_user.so", source], check=True, timeout=60)

    def change(config: dict[str, Any]) -> None:
        if unprivileged:
            config["process"]["user"] = {"uid": _USER, "gid": _USER}
        else:
            config["process"]["env"].append("LD_PRELOAD=/root_user.so")
            for names in config["process"]["capabilities"].values():
                names += ["CAP_DAC_OVERRIDE", "CAP_FOWNER"]  # its directory is the other user's

    bundle.edit_config(container, change)
    return container


def stop(container: Container) -> None:
    """End the server in good order; the container is gone, its files and its network stay."""
    container.runc("kill", container.name, "INT")
    deadline = time.monotonic() + READY_SECONDS
    while container.status != "stopped":
        if time.monotonic() > deadline:
            raise LabError(f"{container.name} on {container.host.name} does not end")
        time.sleep(0.1)
    container.delete()


@dataclass
class Client:
    """PostgreSQL's own programs on a host, speaking to the server."""

    host: Host
    address: str

    def words(self, program: str, *words: str) -> list[str]:
        """A program of the cached root; it writes nothing there."""
        root = str(bundle.cached_root("applications"))
        server = ("-h", self.address, "-p", str(PORT), "-U", "postgres")
        return ["chroot", root, f"{_PROGRAMS}/{program}", *server, *words, "postgres"]

    def ask(self, query: str) -> str:
        """The answer to a query, as text."""
        return self.host.run(self.words("psql", "-qAtc", query)).stdout.strip()

    def fill(self, scale: int) -> None:
        """Make pgbench's tables, some 15 MiB for each of SCALE."""
        self.host.run(self.words("pgbench", "-i", "-q", "-s", str(scale)), timeout=INIT_SECONDS)

    @contextmanager
    def bench(
        self, *options: str, script: str = "", out: int | IO[Any] = subprocess.PIPE
    ) -> Iterator[subprocess.Popen[str]]:
        """pgbench with four connections, of its own transactions or SCRIPT's, telling OUT each second how it goes."""
        words = self.words("pgbench", "-n", "-c", "4", "-j", "2", "-T", "600", "-P", "1", *options)
        if script:
            words[-1:-1] = ["-f", "-"]
        with tempfile.TemporaryFile("w+") as file:
            file.write(script)
            file.seek(0)
            process = self.host.popen(words, stdin=file, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def wait_transactions(self, more: int) -> None:
        """Wait until so many more are committed."""
        query = "select count(*) from pgbench_history"
        goal = int(self.ask(query)) + more
        while int(self.ask(query)) < goal:
            pass

    def connections(self) -> str:
        """Those of pgbench: the server's process for each, and since when."""
        return self.ask("select pid, backend_start from pg_stat_activity where application_name = 'pgbench' order by 1")


def end(bench: subprocess.Popen[str]) -> None:
    """Have pgbench end in good order, as its time would."""
    bench.send_signal(signal.SIGALRM)
