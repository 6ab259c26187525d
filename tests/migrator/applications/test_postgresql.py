"""PostgreSQL under pgbench, which counts by itself: every transaction that it was told of is there, once."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.lab import bundle
from benchmarks.lab.container import Container
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from migrator.inspector import CAP_SYS_RESOURCE, has_capability
from tests.migrator.agents import agents_on, edit_config, events

PORT = 5432
PROGRAMS = "/usr/lib/postgresql/17/bin"
DATA = "/srv/postgresql"
USER = 33  # as in root_user.c
SECONDS = 120.0
SERVER = f"""
export PATH={PROGRAMS}:$PATH
initdb -D {DATA} -U postgres --auth trust --data-checksums --locale C --no-sync &&
echo 'host all all all trust' >>{DATA}/pg_hba.conf &&
exec postgres -D {DATA} -c listen_addresses='*' -c unix_socket_directories= -c jit=off -c shared_buffers=32MB
"""


def make_container(host: Host) -> Container:
    """A server of its own user where CRIU can dump that, else of root's who does not know it."""
    container = bundle.make(host, "db", ["/bin/sh", "-c", SERVER], data_mib=0, root="applications")
    root = host.path_of(container.rootfs)
    place = root / DATA.lstrip("/")
    place.mkdir(0o700)
    host.run(["chown", str(USER), container.rootfs / DATA.lstrip("/")])
    unprivileged = has_capability(CAP_SYS_RESOURCE)
    if not unprivileged:
        source = Path(__file__).with_name("root_user.c")
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", root / "root_user.so", source], check=True, timeout=60)

    def change(config: dict[str, Any]) -> None:
        if unprivileged:
            config["process"]["user"] = {"uid": USER, "gid": USER}
        else:
            config["process"]["env"].append("LD_PRELOAD=/root_user.so")
            for names in config["process"]["capabilities"].values():
                names += ["CAP_DAC_OVERRIDE", "CAP_FOWNER"]  # its directory is the other user's

    edit_config(container, change)
    return container


@dataclass
class Client:
    """PostgreSQL's own programs on a host, speaking to the server."""

    host: Host
    address: str

    def words(self, program: str, *words: str) -> list[str]:
        """A program of the cached root; it writes nothing there."""
        root = str(bundle.cached_root("applications"))
        server = ("-h", self.address, "-p", str(PORT), "-U", "postgres")
        return ["chroot", root, f"{PROGRAMS}/{program}", *server, *words, "postgres"]

    def ask(self, query: str) -> str:
        """The answer to a query, as text."""
        return self.host.run(self.words("psql", "-qAtc", query)).stdout.strip()

    @contextmanager
    def bench(self) -> Iterator[subprocess.Popen[str]]:
        """pgbench with four connections; SIGALRM ends it in good order, as its time would."""
        words = self.words("pgbench", "-n", "-c", "4", "-j", "2", "-T", "600", "-P", "1")
        process = self.host.popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
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


def test_no_transaction_is_lost_or_done_twice(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = make_container(a.host)
    container.start()
    container.wait_port(PORT)
    client = Client(lab.host("c"), container.network.address)
    client.host.run(client.words("pgbench", "-i", "-q", "-s", "2"))
    with client.bench() as process:
        client.wait_transactions(100)
        connections = client.connections()
        assert len(connections.splitlines()) == 4
        done = a.migrate("db", b, "--memory", "stop-copy")
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        result = events(done)[-1]["result"]
        assert result["outcome"] == "moved"
        # What its processes share counts once: it is neither refused for lack of memory nor moved as if it were large.
        assert 0.5 < result["prediction"]["memory_bytes"] / result["image_bytes"] < 2
        assert result["prediction"]["dirty_rate"] > 0
        assert remains(a.host) == []
        a.host.kill()
        client.wait_transactions(100)
        assert client.connections() == connections
        process.send_signal(signal.SIGALRM)
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    figures = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    assert figures["number of failed transactions"] == "0 (0.000%)", said
    committed = int(figures["number of transactions actually processed"])
    assert client.ask("select count(*) from pgbench_history") == str(committed)
    sums = [
        client.ask(f"select sum({column}) from {table}")
        for table, column in {
            "pgbench_history": "delta",
            "pgbench_accounts": "abalance",
            "pgbench_tellers": "tbalance",
            "pgbench_branches": "bbalance",
        }.items()
    ]
    assert len(set(sums)) == 1, sums
    # Every page is read from where it lies now, and its checksum found right; and it can be written.
    client.ask("vacuum (full, analyze)")
    assert client.ask("select sum(checksum_failures) from pg_stat_database") == "0"
    client.ask("checkpoint")
