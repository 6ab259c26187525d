"""Failures before the commit, on real hosts: the source goes on under its client's hands, the target is clean."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from benchmarks.lab import bundle, tls
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from migrator.core.errors import Refused, RuntimeFailed
from migrator.core.phases import Hold, Phase
from tests.migrator.agents import MIGRATOR, STATE, Agent, events, until, wrapper

# What a target does instead of restoring: CRIU then finds an image missing.
LOSE_AN_IMAGE = 'find /run/migrator -name \'core-*.img\' -delete; exec "$real" "$@"'
GATE = "/run/gate"
GATE_AND = f"echo >{GATE}; read go <{GATE}-back;"
WAIT_AT_GATE = GATE_AND + ' exec "$real" "$@"'
MIGRATOR_STATUS = " ".join((*MIGRATOR, "status"))


@dataclass
class Scene:
    """Two agents, a redis on the first, and its client."""

    a: Agent
    b: Agent
    container: Container
    client: CounterClient

    def check_nothing_happened(self) -> None:
        """But for a delay."""
        report = self.client.wait_replies(50)
        assert report.connections == 1
        assert not report.errors
        assert self.container.status == "running"
        assert remains(self.b.host) == []
        left = [line for line in remains(self.a.host) if "redis" not in line]
        assert left == []


@pytest.fixture(scope="module")
def scene(shared_lab: Lab) -> Iterator[Scene]:
    hosts = [shared_lab.host(name) for name in "ab"]
    tls.install(hosts)
    a, b = (Agent(host) for host in hosts)
    container = bundle.redis(a.host, "redis", data_mib=1)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(shared_lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(10)
        yield Scene(a, b, container, client)


@pytest.fixture
def agents(scene: Scene) -> Iterator[Scene]:
    """Both agents answer, as the test has set them up; afterwards neither runs."""
    yield scene
    for agent in (scene.a, scene.b):
        agent.stop()
        agent.options = ()


def start(scene: Scene, *, source: tuple[str, ...] = (), target: tuple[str, ...] = ()) -> None:
    scene.a.options, scene.b.options = source, target
    scene.a.start()
    scene.b.start()


def test_restoring_fails(agents: Scene) -> None:
    start(agents, target=("--runtime", wrapper(agents.b.host, "runc", "restore", LOSE_AN_IMAGE)))
    done = agents.a.migrator("migrate", "redis", agents.b.address)
    assert done.returncode == RuntimeFailed.status
    assert "restoring container redis on the target failed" in done.stderr
    assert "core-" in done.stderr, "the last lines of CRIU's log"
    assert "Traceback" not in done.stderr
    agents.check_nothing_happened()


def test_dumping_fails(agents: Scene) -> None:
    start(agents, source=("--runtime", wrapper(agents.a.host, "runc", "checkpoint", "echo no luck >&2; exit 1")))
    done = agents.a.migrate("redis", agents.b)
    assert done.returncode == RuntimeFailed.status
    error = events(done)[-1]
    assert (error["event"], error["kind"], error["status"]) == ("error", "RuntimeFailed", RuntimeFailed.status)
    assert error["log"][-1] == "no luck"
    agents.check_nothing_happened()
    known = agents.a.known(error["migration"])
    assert (known["phase"], known["error"]["kind"]) == (Phase.ROLLED_BACK, "RuntimeFailed")
    assert agents.b.known(error["migration"])["phase"] == Hold.DISCARDED


def test_mounting_fails(agents: Scene) -> None:
    start(agents, target=("--voyfs", wrapper(agents.b.host, "true", "mount", "echo no mount today >&2; exit 9")))
    done = agents.a.migrator("migrate", "redis", agents.b.address)
    assert done.returncode == 22
    assert "no mount today" in done.stderr
    agents.check_nothing_happened()


class Gate:
    """Where a wrapped program waits until the test lets it go on."""

    def __init__(self, host: Host) -> None:
        """Make the two pipes."""
        self._host = host
        host.run(["sh", "-c", f"rm -f {GATE} {GATE}-back; mkfifo {GATE} {GATE}-back"])

    def wait(self) -> None:
        """The program is there."""
        self._host.run(["sh", "-c", f"read x <{GATE}"])

    def open(self) -> None:
        """It goes on."""
        self._host.run(["sh", "-c", f"echo >{GATE}-back"])


def test_the_source_agent_is_killed_while_the_container_is_frozen(agents: Scene) -> None:
    gate = Gate(agents.b.host)
    start(agents, target=("--runtime", wrapper(agents.b.host, "runc", "restore", WAIT_AT_GATE)))
    with agents.a.migrating("redis", agents.b) as told:
        migration = until(told, event="started")["migration"]
        gate.wait()
        assert agents.container.status == "paused"
        agents.a.kill()
    gate.open()  # the restore ends by itself, and nobody takes it
    agents.a.start()
    assert "restarted" in agents.a.end_of(migration)["error"]
    agents.check_nothing_happened()
    assert agents.a.known(migration)["phase"] == Phase.ROLLED_BACK
    assert agents.b.known(migration)["phase"] == Hold.DISCARDED


def test_the_target_agent_is_killed_while_it_restores(agents: Scene) -> None:
    gate = Gate(agents.b.host)
    start(agents, target=("--runtime", wrapper(agents.b.host, "runc", "restore", WAIT_AT_GATE)))
    with agents.a.migrating("redis", agents.b) as told:
        migration = until(told, event="started")["migration"]
        gate.wait()
        agents.b.kill()
        assert until(told, event="error")["kind"] == "PeerUnreachable"
    agents.client.wait_replies(50)
    assert agents.container.status == "running"
    gate.open()
    agents.b.start()
    agents.check_nothing_happened()
    assert agents.b.known(migration)["phase"] == Hold.DISCARDED


def test_what_a_killed_restore_leaves_is_removed_without_touching_the_root(agents: Scene) -> None:
    """CRIU binds the container's root below the runtime's state, and a runtime deletes the state with what is in it."""
    host, root = agents.b.host, Host.data / "precious"
    script = f"""
        mkdir -p {root} /run/runc/half/criu-root
        echo content >{root}/file
        mount --bind {root} /run/runc/half/criu-root
        for group in /sys/fs/cgroup /sys/fs/cgroup/freezer /sys/fs/cgroup/pids; do
            if [ -e $group/cgroup.procs ]; then
                mkdir -p $group/half
                sleep 1000 >/dev/null 2>&1 &
                echo $! >$group/half/cgroup.procs
            fi
        done
        """
    host.run(["sh", "-ec", script])
    destroy = """
        from pathlib import Path
        from migrator.core.argv import RuntimeCommand
        from migrator.runc import OciRuntime
        runtime = OciRuntime(RuntimeCommand(), Path("/run"))
        assert runtime.exists("half")
        runtime.destroy("half", "/nowhere")
        assert not runtime.exists("half")
        runtime.destroy("half", "/nowhere")
        """
    host.run([sys.executable, "-c", "\n".join(line.strip() for line in destroy.splitlines())])
    assert host.path_of(root / "file").read_text() == "content\n"
    left = host.run(
        ["sh", "-c", "ls -d /run/runc/half /sys/fs/cgroup/half /sys/fs/cgroup/*/half; pgrep -x sleep"], check=False
    ).stdout
    assert left == ""
    start(agents)  # the fixture stops them


def test_a_dump_that_is_given_up_has_ended_before_the_container_goes_on(agents: Scene) -> None:
    """CRIU stands in the middle of it when its runtime is killed, and would work on beside the container."""
    a, b = agents.a, agents.b
    gate = Gate(a.host)
    stop_criu = "until ls /run/migrator/dump-*/images/core-*.img; do :; done; pkill -STOP -x criu;"
    start(
        agents,
        source=(
            "--runtime",
            wrapper(a.host, "runc", "checkpoint", f'"$real" "$@" & {{ {stop_criu} }} >/dev/null 2>&1; {GATE_AND} wait'),
        ),
    )
    with a.migrating("redis", b) as told:
        migration = until(told, event="started")["migration"]
        gate.wait()
        b.kill()
        until(told, event="phase", phase="rollback", state="begin")
        time.sleep(0.5)  # what must not happen would have
        assert a.known(migration)["phase"] == Phase.ROLLBACK
        a.host.run(["pkill", "-CONT", "-x", "criu"])
        until(told, event="error")
    b.start()
    agents.check_nothing_happened()


def test_it_is_aborted_while_the_container_is_frozen(agents: Scene) -> None:
    """The restore stands at the gate all the while: the container does not wait for it."""
    gate = Gate(agents.b.host)
    start(agents, target=("--runtime", wrapper(agents.b.host, "runc", "restore", WAIT_AT_GATE)))
    with agents.a.migrating("redis", agents.b) as told:
        migration = until(told, event="started")["migration"]
        gate.wait()
        assert agents.container.status == "paused"
        done = agents.a.migrator("abort", migration)
        assert (done.returncode, done.stderr) == (0, "")
        assert until(told, event="error")["kind"] == "Aborted"
    agents.check_nothing_happened()
    assert agents.a.migrator("abort", migration).returncode == 0, "once more changes nothing"
    assert agents.b.migrator("abort", migration).returncode == Refused.status


def test_the_agent_is_stopped_while_the_container_is_frozen(agents: Scene) -> None:
    gate = Gate(agents.b.host)
    start(agents, target=("--runtime", wrapper(agents.b.host, "runc", "restore", WAIT_AT_GATE)))
    with agents.a.migrating("redis", agents.b) as told:
        until(told, event="started")
        gate.wait()
        assert agents.a.process is not None
        agents.a.process.terminate()
        gate.open()
        assert "stopped" in until(told, event="error")["error"]
    assert agents.a.process.wait(60) == 0
    agents.check_nothing_happened()
    agents.a.start()


def test_the_target_agent_is_killed_while_it_holds_and_learns_the_decision_later(agents: Scene) -> None:
    """After all that it can still be moved, and this is a hard way to do it."""
    a, b = agents.a, agents.b
    gate = Gate(b.host)
    start(
        agents, target=("--runtime", wrapper(b.host, "runc", "restore", '"$real" "$@"; s=$?; ' + GATE_AND + " exit $s"))
    )
    assert a.process is not None
    with a.migrating("redis", b) as told:
        migration = until(told, event="started")["migration"]
        gate.wait()
        a.process.send_signal(signal.SIGSTOP)  # so that it does not decide yet
        gate.open()
        b.host.run(["sh", "-c", f"until grep -q '\"held\"' {STATE}/journal/{migration}; do :; done"])
        b.host.run(["sh", "-c", f"until {MIGRATOR_STATUS} {migration} --json | grep -q held; do :; done"])
        b.kill()
        assert agents.container.at(b.host).status == "paused"
        a.process.send_signal(signal.SIGCONT)
        until(told, event="waiting")
        assert agents.container.status == "paused", "decided, and neither runs"
        b.options = ()
        b.start()
        result = until(told, event="result")["result"]
    assert result["outcome"] == "moved"
    report = agents.client.wait_replies(50)
    assert report.connections == 1
    assert not report.errors
