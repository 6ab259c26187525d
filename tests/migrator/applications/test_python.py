"""A service in Python with a thread for each of its clients."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

from benchmarks.lab import bundle
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import STATE, agents_on, events
from tests.migrator.applications import service

PORT = 7000
KEYS = ("one", "two", "three", "four")


def threads(container: Container) -> int:
    """Those of the container's first process."""
    status = container.host.run(["cat", f"/proc/{container.state()['pid']}/status"]).stdout
    return int(status.partition("\nThreads:")[2].split()[0])


def test_all_threads_go_on(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    argv = ["/usr/bin/python3", "/srv/service.py", str(PORT), "/srv/log"]
    container = bundle.make(a.host, "counts", argv, data_mib=0, root="applications")
    root = a.host.path_of(container.rootfs)
    shutil.copy(service.__file__, root / "srv")
    container.start()
    container.wait_port(PORT)
    c = lab.host("c")
    with ExitStack() as stack:
        clients = {key: stack.enter_context(CounterClient(c, container.network.address, PORT, key=key)) for key in KEYS}
        for client in clients.values():
            client.wait_replies(20)
        running = threads(container)
        assert running >= len(KEYS) + 2
        done = a.migrate("counts", b)
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        assert events(done)[-1]["result"]["outcome"] == "moved"
        assert remains(a.host) == []
        a.host.kill()
        for client in clients.values():
            client.wait_replies(20)
        assert threads(container.at(b.host)) == running
        reports = {key: client.stop() for key, client in clients.items()}
    lines = b.host.path_of(STATE / "containers/counts/store/data/srv/log").read_text().splitlines()
    for key, report in reports.items():
        assert report.unbroken, report
        assert report.last == report.count
        counted = [int(value) for name, value in map(str.split, lines) if name == key]
        assert counted == list(range(1, len(counted) + 1))
        assert report.last <= len(counted) <= report.last + 1  # at most the one that it did not wait for
