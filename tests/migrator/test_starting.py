"""Containers in which somebody waits for a program that is being started (vfork), which CRIU cannot stop."""

from __future__ import annotations

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Host, Lab
from tests.migrator.agents import STATE, agents_on

ALWAYS = "n=0; while :; do /bin/true; n=$((n+1)); echo $n >/srv/count; done"

# The program is not started before somebody opens the pipe.
AT_A_PIPE = """
import os, time
os.mkfifo("/srv/pipe")
opened = [(os.POSIX_SPAWN_OPEN, 0, "/srv/pipe", os.O_RDONLY, 0)]
os.waitpid(os.posix_spawn("/bin/true", ["true"], {}, file_actions=opened), 0)
for number in range(10**9):
    with open("/srv/count", "w") as file:
        print(number, file=file)
    time.sleep(0.01)
"""


def _wait(host: Host, condition: str) -> None:
    host.run(["timeout", "30", "sh", "-c", f"until {condition}; do sleep 0.05; done"])


def _counts(host: Host, path: str) -> None:
    before = host.run(["cat", path]).stdout.strip()
    _wait(host, f'[ "$(cat {path})" != "{before}" ]')


def test_one_that_starts_programs_all_the_time_moves(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(a.host, "starts", ["/bin/sh", "-c", ALWAYS], data_mib=8)
    container.start()
    _wait(a.host, f"[ -e {container.rootfs}/srv/count ]")
    done = a.migrate("starts", b)
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    _counts(b.host, f"{STATE}/containers/starts/root/srv/count")


def test_one_that_does_not_get_its_program_started_is_let_go_and_moves_when_it_has(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(a.host, "waits", ["/usr/bin/python3", "-c", AT_A_PIPE], data_mib=8, root="applications")
    container.start()
    served = f"{container.rootfs}/srv"
    _wait(a.host, f"[ -e {served}/pipe ]")
    refused = a.migrate("waits", b)
    assert refused.returncode != 0
    assert "waits for a program that it starts (vfork)" in refused.stderr + refused.stdout
    assert container.state()["status"] == "running"
    a.host.run(["timeout", "10", "sh", "-c", f": >{served}/pipe"])
    _wait(a.host, f"[ -s {served}/count ]")
    _counts(a.host, f"{served}/count")
    done = a.migrate("waits", b)
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    _counts(b.host, f"{STATE}/containers/waits/root/srv/count")
