"""`migrator check`: the rules, and the whole of it on real hosts with containers that cannot be moved."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from migrator.core import prediction, preflight, suitability
from migrator.core.errors import CheckFailed, Insecure, MigratorError, NoSpace, NotReady, Unsupported
from migrator.core.host import UNLIMITED, Needs, Traits
from migrator.core.prediction import Link, Load
from migrator.core.processes import Descriptor, Process, problems
from tests.migrator.agents import Agent, agents_on, events
from tests.migrator.test_core import HOST, SOURCE, TARGET
from tests.migrator.world import CONTAINER

NOW = 1e9
TRAITS = Traits("6.1", "x86_64", "v2", ("apparmor",), ("web",), wall=NOW, features=("fdinfo_lock",))
NEEDS = Needs(cpu=b"cpu", features=("fdinfo_lock",), disk_bytes=1 << 30, disk_files=1000, processes=3)
THERE = replace(TARGET, host=replace(HOST, traits=TRAITS))
HERE = replace(SOURCE, host=replace(SOURCE.host, traits=TRAITS), needs=NEEDS)


def there(**traits: Any) -> preflight.TargetFacts:
    return replace(THERE, host=replace(HOST, traits=replace(TRAITS, **traits)))


def here(**needs: Any) -> preflight.SourceFacts:
    return replace(HERE, needs=replace(NEEDS, **needs))


def rows_of(source: preflight.SourceFacts, target: preflight.TargetFacts) -> list[preflight.Row]:
    return [
        *suitability.source_rows(CONTAINER, source),
        *suitability.target_rows(CONTAINER, source, target),
    ]


def test_two_hosts_that_are_alike_suit() -> None:
    assert [row for row in rows_of(HERE, THERE) if row.problem] == []


@pytest.mark.parametrize(
    ("source", "target", "name", "error", "says"),
    [
        (here(problems=("process 7 (x) has a thing",)), THERE, "processes", Unsupported, "process 7 (x) has a thing"),
        (
            replace(here(other_users=True), host=replace(HERE.host, traits=replace(TRAITS, raises_limits=False))),
            THERE,
            "users",
            NotReady,
            "may not read",
        ),
        (HERE, there(certificate_expires=NOW - 1), "certificate", Insecure, "has expired"),
        (HERE, replace(THERE, cpu_problem="avx2"), "cpu", NotReady, "avx2"),
        (HERE, there(architecture="aarch64"), "kernel", NotReady, "aarch64"),
        (HERE, there(features=()), "kernel", NotReady, "file locks"),
        (HERE, there(cgroups="hybrid"), "cgroups", NotReady, "cgroup v2, the target's in hybrid"),
        (
            here(limits={"nofile": UNLIMITED}),
            there(limits={"nofile": 9}, raises_limits=False),
            "rlimits",
            NotReady,
            "9",
        ),
        (here(apparmor="db"), THERE, "security", NotReady, "profile db"),
        (here(selinux="t"), THERE, "security", NotReady, "SELinux"),
        (here(seccomp=True), there(seccomp=False), "security", NotReady, "filters system calls"),
        (HERE, replace(THERE, missing=("/opt/hook",)), "paths", NotReady, "/opt/hook"),
        (HERE, replace(THERE, disk_free=1 << 30), "whole disk", NoSpace, "1.0 GiB"),
        (HERE, replace(THERE, inodes_free=999), "inodes", NoSpace, "1000 files"),
        (HERE, replace(THERE, host=replace(THERE.host, runtime_program="/bin/crun")), "same runtime", NotReady, "crun"),
        (replace(HERE, host=replace(HERE.host, criu="Version: 5.0")), THERE, "same criu", NotReady, "older"),
    ],
)
def test_what_does_not_suit_is_told_with_its_remedy(
    source: preflight.SourceFacts, target: preflight.TargetFacts, name: str, error: type[MigratorError], says: str
) -> None:
    failed = [row for row in rows_of(source, target) if not row.ok]
    assert [row.name for row in failed] == [name]
    assert failed[0].error is error
    assert says in failed[0].problem
    assert failed[0].remedy


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        (HERE, there(wall=NOW + 5), "clock"),
        (HERE, there(certificate_expires=NOW + 86400), "certificate"),
        (here(cpu=b"", cpu_problem="no such option"), THERE, "cpu"),
        (replace(HERE, host=replace(HERE.host, criu="Version: 4.9")), THERE, "same criu"),
    ],
)
def test_what_is_only_odd_warns(source: preflight.SourceFacts, target: preflight.TargetFacts, name: str) -> None:
    odd = [row for row in rows_of(source, target) if row.problem]
    assert [row.name for row in odd] == [name]
    preflight.raise_first(odd)


SPACES = {"pid": 1, "ipc": 2, "uts": 3, "user": 4}
INIT = Process(10, "init", 1, namespaces=SPACES)


@pytest.mark.parametrize(
    ("descriptor", "says"),
    [
        (Descriptor(3, "anon_inode:[io_uring]"), "io_uring"),
        (Descriptor(3, "socket:[1]", protocol="ALG"), "protocol ALG"),
        (Descriptor(3, "/dev/fuse", device=("c", 10, 229)), "device /dev/fuse"),
        (Descriptor(3, "/dev/vda", device=("b", 254, 0)), "device /dev/vda"),
        (Descriptor(0, "/dev/pts/3", inside=False, device=("c", 136, 3)), "a terminal of the host"),
        (Descriptor(1, "/var/log/x", inside=False), "outside of the container"),
    ],
)
def test_descriptors_that_cannot_be_dumped(descriptor: Descriptor, says: str) -> None:
    (said,) = problems([replace(INIT, descriptors=(descriptor,))], 10)
    assert says in said
    assert "process 10 (init)" in said


@pytest.mark.parametrize(
    "descriptor",
    [
        Descriptor(3, "anon_inode:[eventpoll]"),
        Descriptor(3, "anon_inode:inotify"),
        Descriptor(3, "pipe:[1]", inside=False),
        Descriptor(3, "socket:[1]", protocol="UNIX-STREAM"),
        Descriptor(3, "socket:[1]"),
        Descriptor(3, "/memfd:x (deleted)", inside=False),
        Descriptor(3, "/dev/null", device=("c", 1, 3)),
        Descriptor(3, "/dev/pts/0", device=("c", 136, 0)),
        Descriptor(3, "/srv/data"),
    ],
)
def test_descriptors_that_can(descriptor: Descriptor) -> None:
    assert problems([replace(INIT, descriptors=(descriptor,))], 10) == []


@pytest.mark.parametrize(
    ("process", "says"),
    [
        (Process(11, "sh", 99, namespaces=SPACES), "from outside"),
        (Process(11, "sh", 10, tracer=5, namespaces=SPACES), "traced by process 5"),
        (Process(11, "sh", 10, namespaces={**SPACES, "pid": 9}), "pid namespace of its own"),
        (Process(11, "sh", 10, namespaces=SPACES, mapped_devices=("/dev/dri/card0",)), "/dev/dri/card0"),
    ],
)
def test_processes_that_cannot_be_dumped(process: Process, says: str) -> None:
    (said,) = problems([INIT, process], 10)
    assert says in said


def test_one_that_is_ending_is_no_problem() -> None:
    ending = Process(11, "sh", 10, namespaces={"pid": 1, "user": 4})
    assert problems([INIT, ending], 10) == []


def test_a_prediction_grows_with_what_is_moved_and_with_the_way() -> None:
    fast = prediction.predict(Link(1e9, 0.0), Load(0, 0, 0), 0)
    assert fast.downtime == pytest.approx(prediction.FIXED_SECONDS)
    slow = prediction.predict(Link(1e6, 0.1), Load(10_000_000, 20_000_000, 0), 10_000_000)
    assert slow.downtime == pytest.approx(prediction.FIXED_SECONDS + 0.1 * prediction.WORDS + 10)
    assert slow.hydration == pytest.approx(20)
    archived = prediction.predict(Link(1e9, 0.0), Load(0, 0, 0, tmpfs_bytes=60_000_000), 0)
    assert archived.downtime == pytest.approx(prediction.FIXED_SECONDS + 2)
    timeline = {"downtime_s": 11.0, "phases": [{"phase": "hydrate", "seconds": 19.0}]}
    came = prediction.outcome(slow.to_json(), timeline)
    assert (came["actual_downtime_s"], came["actual_hydration_s"]) == (11.0, 19.0)


@dataclass
class Pair:
    """Two agents, and a container on the first that can be moved."""

    a: Agent
    b: Agent

    def check(self, container: str, *words: str) -> tuple[int, dict[str, Any], str]:
        """Exit status, what --json gives, what people see on stderr."""
        done = self.a.migrator("check", container, self.b.address, "--json", *words)
        return done.returncode, json.loads(done.stdout), done.stderr


@pytest.fixture(scope="module")
def pair(shared_lab: Lab) -> Iterator[Pair]:
    a, b = agents_on(shared_lab.host("a"), shared_lab.host("b"))
    yield Pair(a, b)
    for agent in (a, b):
        agent.stop()


def test_a_container_that_can_be_moved(pair: Pair) -> None:
    container = bundle.loop(pair.a.host, "loop")
    container.start()
    before = remains(pair.a.host), remains(pair.b.host)
    status, found, _ = pair.check("loop")
    assert status == 0, found
    assert found["ready"]
    names = {(row["check"], row["host"]) for row in found["checks"]}
    for host in ("source", "target"):
        assert {(name, host) for name in ("runtime", "criu", "criu check", "voyfs", "memory", "certificate")} <= names
    for name in (
        "cpu",
        "kernel",
        "cgroups",
        "rlimits",
        "security",
        "whole disk",
        "inodes",
        "clock",
        "address",
        "agent",
    ):
        assert (name, "target") in names
    assert {"processes", "terminal", "namespaces", "mount types"} <= {name for name, host in names if host == "source"}
    assert found["memory"] == "stop-copy"
    assert found["prediction"]["link_rate"] > 1e6
    assert 0 < found["prediction"]["dirty_rate"] < 1e9, "of a shell that starts programs"
    assert found["prediction"]["disk_files"] > 1000
    assert found["prediction"]["disk_bytes"] > 1 << 20
    # Both hosts of a lab are this machine, and so alike.
    shown = {row["check"]: row["found"] for row in found["checks"] if row["host"] == "target"}
    assert shown["cpu"] == "has all that the source's has"
    assert shown["same runtime"] == "runc"
    assert "days left" in shown["certificate"]
    assert (remains(pair.a.host), remains(pair.b.host)) == before
    for words in (["check", "loop", pair.b.address], ["migrate", "loop", pair.b.address, "--dry-run"]):
        done = pair.a.migrator(*words)
        assert done.returncode == 0
        assert "downtime: predicted" in done.stdout
        assert container.status == "running"
    # One that was put in from outside is found before anything is frozen, as is what it has open.
    pair.a.host.run(["sh", "-c", "runc exec -d loop sleep 1000 >/dev/null 2>&1"])
    status, found, said = pair.check("loop")
    assert status == CheckFailed.status
    assert "was put into the container from outside" in said
    assert not found["ready"]
    refused = events(pair.a.migrate("loop", pair.b))[-1]
    assert (refused["kind"], refused["status"]) == ("Unsupported", Unsupported.status)
    assert container.status == "running"
    container.delete()
    container.network.remove(pair.a.host)


def test_descriptors_of_the_host_are_found_before_the_freeze(pair: Pair) -> None:
    """Output into a file of the host, without a terminal: CRIU would find that out with the container frozen."""
    container = bundle.loop(pair.a.host, "writer")
    pair.a.host.run(["sh", "-c", f"runc run -d --bundle {container.bundle} writer </dev/null >/run/out 2>&1"])
    status, found, _ = pair.check("writer")
    assert status == CheckFailed.status
    (row,) = [row for row in found["checks"] if row["state"] == "fails"]
    assert row["check"] == "processes"
    assert "/run/out, which lies outside of the container" in row["problem"]
    assert "as descriptor 1" in row["problem"]
    container.delete()
    container.network.remove(pair.a.host)


def test_an_attached_terminal_is_refused_before_anything_is_touched(pair: Pair) -> None:
    container = bundle.loop(pair.a.host, "attached")
    bundle.edit_config(container, lambda config: config["process"].update(terminal=True))
    words = f"script -qec 'runc run --bundle {container.bundle} attached' /dev/null </dev/null >/dev/null 2>&1 &"
    pair.a.host.run(["sh", "-c", f"({words}) >/dev/null 2>&1"])
    pair.a.host.run(["sh", "-c", "until runc state attached 2>/dev/null | grep -q running; do :; done"])
    before = remains(pair.b.host)
    refused = events(pair.a.migrate("attached", pair.b))[-1]
    assert (refused["kind"], refused["status"]) == ("Unsupported", Unsupported.status)
    assert "terminal" in refused["error"]
    assert container.status == "running"
    assert remains(pair.b.host) == before
    container.delete()
    container.network.remove(pair.a.host)


def test_a_target_that_does_not_answer_is_a_row(pair: Pair) -> None:
    container = bundle.loop(pair.a.host, "alone")
    container.start()
    done = pair.a.migrator("check", "alone", f"{pair.b.host.address}:9", "--json")
    assert done.returncode == CheckFailed.status
    found = json.loads(done.stdout)
    assert [row["check"] for row in found["checks"] if row["state"] == "fails"] == ["agent"]
    assert found["prediction"] is None
    container.delete()
    container.network.remove(pair.a.host)
