"""Connections that are full in both directions, several at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import agents_on, events
from tests.migrator.applications import streams

PORT = 7000
CLIENTS = 2
SECONDS = 120.0


def wait_bytes(client: subprocess.Popen[str], more: int) -> None:
    """Wait until so many more have come back, from the next line on."""
    assert client.stdout is not None
    goal = int(client.stdout.readline()) + more
    while int(client.stdout.readline()) < goal:
        pass


def start_client(host: Host, address: str) -> subprocess.Popen[str]:
    """A client, sending."""
    words = [sys.executable, "-I", "-S", streams.__file__, address, str(PORT)]
    return host.popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_full_streams_go_on_in_both_directions(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    argv = ["/usr/bin/python3", "/srv/streams.py", str(PORT)]
    container = bundle.make(a.host, "echo", argv, data_mib=0, root="applications")
    shutil.copy(streams.__file__, a.host.path_of(container.rootfs) / "srv")
    container.start()
    container.wait_port(PORT)
    c = lab.host("c")
    with ExitStack() as stack:
        clients = [stack.enter_context(start_client(c, container.network.address)) for _ in range(CLIENTS)]
        for client in clients:
            stack.callback(client.kill)
        for client in clients:
            wait_bytes(client, 4 * streams.MIB)
        # What clients have said meanwhile waits in their pipes, which take more lines than they will write.
        done = a.migrate("echo", b, "--no-verify")
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        assert events(done)[-1]["result"]["outcome"] == "moved"
        assert remains(a.host) == []
        a.host.kill()
        for client in clients:
            wait_bytes(client, 4 * streams.MIB)
            said, _ = client.communicate("enough\n", timeout=SECONDS)
            assert client.returncode == 0, said
            assert said.splitlines()[-1].startswith("all ")
