"""The runtime's adapter over a runtime that only answers and remembers: what it destroys, and what it never does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.lab.hosts import Lab
from migrator import procfs
from migrator.core.argv import RuntimeCommand
from migrator.runc import OciRuntime


class Told:
    """A runtime that knows one container, of the bundle it is told; `calls` has what it was asked to do."""

    def __init__(self, directory: Path) -> None:
        """Everything in DIRECTORY."""
        self._directory = directory
        self.program = directory / "runtime"
        self.program.write_text(
            f"#!/bin/sh\nwhile [ $# -gt 0 ]; do case $1 in\n--root) shift ;;\n"
            f"state) cat {directory}/state 2>/dev/null; exit $? ;;\n*) echo $* >>{directory}/calls; exit ;;\n"
            "esac; shift; done\n"
        )
        self.program.chmod(0o755)
        (directory / "root").mkdir()
        self.runtime = OciRuntime(RuntimeCommand(str(self.program), directory / "root"), directory)

    def has(self, bundle: Path) -> None:
        """There is one now, stopped."""
        (self._directory / "root/box").mkdir(exist_ok=True)
        (self._directory / "state").write_text(json.dumps({"id": "box", "pid": 0, "bundle": str(bundle)}))

    def breaks(self) -> None:
        """Its state is none any more."""
        (self._directory / "state").unlink()
        (self._directory / "root/box/junk").touch()

    @property
    def calls(self) -> list[str]:
        """In their order."""
        path = self._directory / "calls"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def told(tmp_path: Path) -> Told:
    return Told(tmp_path)


def test_destroys_the_container_of_that_bundle_alone(told: Told, tmp_path: Path) -> None:
    ours, other = tmp_path / "ours", tmp_path / "other"
    ours.mkdir()
    (tmp_path / "link").symlink_to(ours)
    told.has(other)
    told.runtime.destroy("box", str(ours))
    assert told.calls == []
    told.has(tmp_path / "link")
    told.runtime.destroy("box", str(ours))
    assert told.calls == ["delete --force box"]


def test_a_restore_that_never_began_destroys_nothing(told: Told, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    restore = told.runtime.adopt_restore("m1", "box", str(ours))
    told.has(ours)
    told.breaks()
    restore.discard()
    assert (tmp_path / "root/box/junk").exists()


def test_a_restore_that_began_takes_away_what_it_left(told: Told, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    restore = told.runtime.adopt_restore("m1", "box", str(ours))
    told.has(tmp_path / "other")
    restore.room.work.mkdir(parents=True)
    (restore.room.work / "runtime.log").touch()
    restore.room.remove = lambda: None  # type: ignore[method-assign]  # it is no mount here
    restore.discard()
    assert told.calls == []
    told.has(ours)
    restore.discard()
    assert told.calls == ["delete --force box"]
    told.breaks()
    restore.discard()
    assert not (tmp_path / "root/box").exists()


ACCEPT_LATE = """
import os, socket, sys
from migrator.listening import Listening
listening = Listening(os.getpid())
with socket.create_server((sys.argv[1], 0), family=int(sys.argv[2])) as listener:
    print(listening.unaccepted())
    with socket.create_connection(listener.getsockname()[:2]):
        print(listening.unaccepted())
        listener.accept()[0].close()
        print(listening.unaccepted())
listening.close()
"""


@pytest.mark.parametrize(("address", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_connections_that_nobody_has_accepted_are_counted(lab: Lab, address: str, family: int) -> None:
    """In a network namespace where nobody else listens."""
    said = lab.host("a").run([sys.executable, "-c", ACCEPT_LATE, address, str(family)]).stdout.split()
    assert said == ["0", "1", "0"]


SHARING = """
import mmap, os, sys
shared, file = mmap.mmap(-1, 64 << 20), open(sys.argv[1], "rb")
mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
shared.write(bytes(64 << 20))
for _ in range(8):
    if os.fork() == 0:
        break
sum(shared[::4096]), sum(mapped[::4096])
print(os.getpid(), flush=True)
sys.stdin.read()
"""


def test_shared_memory_counts_once_and_that_of_files_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 << 20))
    words = [sys.executable, "-I", "-S", "-c", SHARING, str(tmp_path / "file")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(9)]
        private, shared = procfs.memory(pids)
        process.communicate()
    assert shared == 64 << 20
    assert 9 << 16 < private < 64 << 20
    assert procfs.memory(pids) == (0, 0), "they have ended"


WRITING = """
import sys, time
memory = bytearray(64 << 20)
print("ready", flush=True)
while True:
    memory[: 16 << 20] = bytes(16 << 20)
    time.sleep(0.01)
"""


def test_what_changes_is_told_and_no_more() -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", WRITING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        procfs.forget_touched([process.pid])
        while procfs.touched([process.pid]) < 16 << 20:
            pass
        assert procfs.touched([process.pid]) < 48 << 20, "half of it is never touched again"
        process.kill()


def test_what_is_in_tmpfs_mounts_is_counted_but_not_that_of_the_host(lab: Lab) -> None:
    host = lab.host("a")
    host.run(["sh", "-ec", "mkdir /run/own /run/hidden; head -c 3M /dev/zero >/run/file"])
    before = procfs.tmpfs(host.pid, ["/run/"])
    both = procfs.tmpfs(host.pid, [])
    assert both - before >= 3 << 20
    host.run(["sh", "-ec", "mount -t tmpfs x /run/own; head -c 1M /dev/zero >/run/own/file"])
    assert procfs.tmpfs(host.pid, []) - both == 1 << 20
    assert procfs.tmpfs(host.pid, ["/run"]) == before
    host.run(["sh", "-ec", "mount -t ramfs x /run/own"])
    assert procfs.tmpfs(host.pid, []) == both, "something else is in front of it"
