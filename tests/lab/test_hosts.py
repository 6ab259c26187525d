"""The laboratory's hosts are separate machines, and vanish."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from benchmarks.lab.hosts import BASE, Lab
from benchmarks.lab.node import LabError
from tests.lab import traces

REPOSITORY = Path(__file__).resolve().parents[2]


def test_hosts_do_not_see_each_others_files(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    for place in ("/var/lib/voyager", "/run", "/tmp", "/dev/shm"):
        a.run(["sh", "-c", f"echo secret >{place}/file"])
        # the checkout itself, which hosts share, may lie in one of these
        assert "file" not in b.run(["ls", place]).stdout.split()
    assert a.path_of("/var/lib/voyager/file").read_text() == "secret\n"
    assert a.path_of("/run/file").read_text() == "secret\n"
    assert b.run(["ls", "-A", str(BASE)]).stdout == ""
    assert a.run(["cat", str(a.path_of("/var/lib/voyager/file"))], check=False).returncode != 0
    with pytest.raises(LabError, match="Read-only"):
        a.run(["touch", "/etc/way-between-hosts"])


def test_hosts_do_not_see_each_others_processes(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    a.popen(["sleep", "1000"])
    assert "sleep" in a.run(["ps", "-eo", "args"]).stdout
    assert "sleep" not in b.run(["ps", "-eo", "args"]).stdout
    assert b.run(["hostname"]).stdout == "b\n"


def test_hosts_reach_each_other_until_cut(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    a.run(["ping", "-c1", "-W1", b.address])

    listener = b.call(lambda: socket.create_server((b.address, 7000)))
    with listener, a.call(lambda: socket.create_connection((b.address, 7000), 5)) as sender:
        receiver, _ = listener.accept()
        with receiver:
            sender.sendall(b"over the wire")
            assert receiver.recv(100) == b"over the wire"

    a.cut()
    assert a.run(["ping", "-c1", "-W1", b.address], check=False).returncode != 0
    a.mend()
    a.run(["ping", "-c1", "-w5", b.address])


def test_two_labs_use_the_same_names_side_by_side(lab: Lab) -> None:
    before = traces.visible_names()
    with Lab() as other:
        ours, theirs = lab.host("a"), other.host("a")
        assert ours.address == theirs.address
        ours.run(["touch", "/var/lib/voyager/ours"])
        assert theirs.run(["ls", "/var/lib/voyager"]).stdout == ""
        names = traces.visible_names() - before
        assert not names & {"br0", "uplink", "wire", "port1"}


def test_a_command_tells_how_it_ended(lab: Lab) -> None:
    a = lab.host("a")
    assert a.run(["cat"], input="in\n").stdout == "in\n"
    assert a.run(["sh", "-c", "exit 7"], check=False).returncode == 7
    assert a.run(["no-such-program"], check=False).returncode == 127
    with pytest.raises(LabError, match="told us so"):
        a.run(["sh", "-c", "echo told us so >&2; exit 1"])
    with pytest.raises(subprocess.TimeoutExpired):
        a.run(["sleep", "1000"], timeout=0.05)
    process = a.popen(["sleep", "1000"])
    process.terminate()
    assert process.wait(10) == -signal.SIGTERM
    assert a.run(["sh", "-c", "echo $VALUE; pwd"], env={"VALUE": "v"}, cwd="/run").stdout == "v\n/run\n"


def test_many_threads_may_use_a_host(lab: Lab) -> None:
    a = lab.host("a")
    results: list[str] = []
    threads = [threading.Thread(target=lambda: results.append(a.run(["hostname"]).stdout)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["a\n"] * 8


def test_a_killed_host_is_gone_and_its_name_free(lab: Lab) -> None:
    a, b = lab.host("a"), lab.host("b")
    process = a.popen(["sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
    a.run(["mkdir", "/var/lib/voyager/mounted"])
    a.run(["mount", "-t", "tmpfs", "none", "/var/lib/voyager/mounted"])
    a.kill()
    assert process.poll() == -signal.SIGKILL
    assert not a.directory.exists()
    assert b.run(["ping", "-c1", "-W1", a.address], check=False).returncode != 0
    assert [trace for trace in traces.of(lab.id, a.directory) if f"{lab.id}-a" in trace] == []

    again = lab.host("a")
    b.run(["ping", "-c1", "-W1", again.address])
    assert again.run(["ls", "/var/lib/voyager"]).stdout == ""


def test_nothing_is_left(lab: Lab) -> None:
    with Lab() as other:
        host = other.host("a")
        host.popen(["sleep", "1000"])
        host.run(["ip", "netns", "add", "named"])
        assert len(traces.processes(other.id)) >= 3
    assert traces.of(other.id, other.directory) == []
    assert "netns named" not in traces.visible_names()


def test_nothing_is_left_of_a_lab_that_fails_half_way() -> None:
    def fail_half_way(lab: Lab) -> None:
        with lab:
            lab.host("a")
            lab.host("b" * 100)  # no host name is that long

    other = Lab()
    with pytest.raises(LabError, match="did not start"):
        fail_half_way(other)
    assert traces.of(other.id, other.directory) == []


OWNER = """
import sys, time
from pathlib import Path
from benchmarks.lab.hosts import Lab
with Lab() as lab:
    host = lab.host("a")
    host.popen(["sleep", "1000"])
    host.run(["mount", "-t", "tmpfs", "none", "/var/lib/voyager"])
    if Path("/sys/fs/cgroup/freezer").exists():  # v1, whose frozen tasks do not even die
        group = "/sys/fs/cgroup/freezer/paused"
        host.popen(["sh", "-c", f"mkdir {group}; echo $$ >{group}/tasks; echo FROZEN >{group}/freezer.state"])
        while "FROZEN" not in host.run(["cat", f"{group}/freezer.state"], check=False).stdout:
            pass
    print(lab.id, lab.directory, flush=True)
    time.sleep(1000)
"""


def test_nothing_is_left_when_the_owner_is_killed() -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert owner.stdout is not None
    with owner.stdout:
        lab_id, directory = owner.stdout.readline().split()
    assert len(traces.processes(lab_id)) >= 4
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    assert traces.wait_gone(lab_id, Path(directory)) == []
