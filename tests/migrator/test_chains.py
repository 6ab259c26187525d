"""On from the target, and back: before the disk has come, and to where the container was before."""

from __future__ import annotations

import sys
import time

from benchmarks.lab import bundle, digests
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from benchmarks.lab.node import LabError
from migrator.core.errors import MigrationUnknown, PeerUnreachable, Refused, TooLate
from migrator.core.phases import Hold, Phase
from tests.migrator.agents import SECONDS, STATE, Agent, agents_on, events, until

PLACE = STATE / "containers/redis"
LIVE = ["srv/redis"]  # what redis itself writes


def test_a_container_moves_on_before_its_disk_has_come_and_back(lab: Lab) -> None:
    a, b, c = agents_on(*map(lab.host, "abc"))
    container = bundle.redis(a.host, "redis", data_mib=8)
    a.host.run(["rm", "-rf", container.rootfs / "usr/share", container.rootfs / "var/lib/dpkg"])  # it moves thrice
    before = digests.of(a.host, container.rootfs, LIVE)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(lab.host("client"), container.network.address, bundle.PORT) as client:
        client.wait_replies(50)
        with a.migrating("redis", b) as first:
            to_b = until(first, event="opened")["migration"]
            a.kill()  # before it asks for the disk
            with b.migrating("redis", c) as second:
                to_c = until(second, event="opened")["migration"]
                assert b.known(to_b)["phase"] == Hold.OPEN
                client.wait_replies(50)
                a.start()
                assert a.end_of(to_b)["result"]["outcome"] == "moved"
                assert until(second, event="result")["result"]["outcome"] == "moved"
        assert a.known(to_b)["phase"] == b.known(to_c)["phase"] == Phase.DONE
        assert b.known(to_b)["phase"] == Hold.LEFT
        assert c.known(to_c)["phase"] == Hold.DETACHED
        assert remains(a.host) == remains(b.host) == []
        assert digests.differing(before, digests.of(c.host, PLACE / "root", LIVE)) == []

        done = c.migrate("redis", b)
        assert done.returncode == 0, done.stderr + c.log() + b.log()
        assert remains(c.host) == []
        client.wait_replies(50)
        assert digests.differing(before, digests.of(b.host, PLACE / "root", LIVE)) == []
        report = client.stop()
    assert report.unbroken, report
    assert report.last == report.count
    assert container.at(b.host).status == "running"


def throttle(agent: Agent, rate: str) -> None:
    """What the background brings to the container's disk there, from now on."""
    agent.host.run([sys.executable, "-m", "voyfs.cli", "bandwidth", PLACE / "root", rate])


def wait_phase(agent: Agent, migration: str, phase: Phase) -> None:
    deadline = time.monotonic() + SECONDS
    while agent.known(migration)["phase"] != phase:
        if time.monotonic() > deadline:
            raise LabError(f"{migration} does not come to {phase}: {agent.known(migration)}")
        time.sleep(0.1)


def test_a_container_is_taken_back_before_its_disk_has_come(lab: Lab) -> None:
    a, b = agents_on(*map(lab.host, "ab"))
    container = bundle.redis(a.host, "redis", data_mib=24)
    a.host.run(["rm", "-rf", container.rootfs / "usr/share", container.rootfs / "var/lib/dpkg"])  # it moves thrice
    before = digests.of(a.host, container.rootfs, LIVE)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(lab.host("client"), container.network.address, bundle.PORT) as client:
        assert a.migrate("redis", b, "--remove-source").returncode == 0  # else all of it is there, as a seed
        with b.migrating("redis", a) as there:
            to_a = until(there, event="opened")["migration"]
            throttle(a, "100k")
            client.wait_replies(50)
            with b.telling("rollback", to_a) as back:
                to_b = until(back, event="opened")["migration"]
                known = b.known(to_a)
                assert (known["phase"], known["missing_bytes"] > 0) == (Phase.HYDRATE, True)
                assert a.known(to_b)["side"] == "source"
                assert b.known(to_b)["phase"] == Hold.OPEN
                assert container.at(b.host).status == "running"
                client.wait_replies(50)
                throttle(a, "0")
                assert until(back, event="result")["result"]["outcome"] == "moved"
            assert until(there, event="result")["result"]["outcome"] == "returned"
        assert b.known(to_a)["phase"] == Phase.RETURNED
        assert a.known(to_a)["phase"] == Hold.LEFT
        assert b.known(to_b)["phase"] == Hold.DETACHED
        assert remains(a.host) == []
        listed = events(b.migrator("list", "--json"))[0]
        [place] = [each["bundle"] for each in listed["containers"]]
        assert place != str(PLACE), "what it was on before was in use"
        assert digests.differing(before, digests.of(b.host, STATE / "containers" / place / "root", LIVE)) == []
        again = b.migrator("rollback", to_a)
        assert (again.returncode, "this host's already" in again.stderr) == (Refused.status, True)

        # From there it goes on as from any place, and nothing but what was to be kept stays.
        done = b.migrate("redis", a)
        assert done.returncode == 0, done.stderr
        assert remains(b.host) == []
        client.wait_replies(50)
        assert digests.differing(before, digests.of(a.host, PLACE / "root", LIVE)) == []
        report = client.stop()
    assert report.unbroken, report
    assert report.last == report.count


def test_a_container_is_taken_back_within_the_window_and_not_after_it(lab: Lab) -> None:
    a, b = agents_on(*map(lab.host, "ab"))
    container = bundle.redis(a.host, "redis", data_mib=2)
    a.host.run(["rm", "-rf", container.rootfs / "usr/share", container.rootfs / "var/lib/dpkg"])
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(lab.host("client"), container.network.address, bundle.PORT) as client:
        done = a.migrate("redis", b, "--failback-window", "1h", "--remove-source")
        assert done.returncode == 0, done.stderr
        there = events(done)[-1]["result"]
        assert there["kept_until"] > time.time() + 3000
        known = a.known(there["migration"])
        assert (known["phase"], known["kept_until"]) == (Phase.KEEP, there["kept_until"])
        assert "rollback" in known["advice"]
        assert "kept here until" in a.migrator("status", there["migration"]).stdout
        assert a.host.path_of(container.rootfs).is_dir()
        a.kill()
        a.start()
        for host, words, status in (
            (b, there["migration"], Refused.status),
            (a, "never", MigrationUnknown.status),
        ):
            failed = host.migrator("rollback", words)
            assert (failed.returncode, failed.stderr.count("\n")) == (status, 1), failed.stderr
        b.stop()
        failed = a.migrator("rollback", there["migration"])
        assert (failed.returncode, failed.stderr.count("\n")) == (PeerUnreachable.status, 1), failed.stderr
        assert a.known(there["migration"])["phase"] == Phase.KEEP
        b.start()

        client.wait_replies(50)
        back = a.migrator("rollback", there["migration"])
        assert back.returncode == 0, back.stderr
        wait_phase(a, there["migration"], Phase.RETURNED)
        assert container.at(a.host).status == "running"
        assert remains(b.host) == []
        assert not a.host.path_of(container.rootfs).exists()
        client.wait_replies(50)

        done = a.migrate("redis", b, "--failback-window", "1s")
        assert done.returncode == 0, done.stderr
        wait_phase(a, events(done)[-1]["migration"], Phase.DONE)
        late = a.migrator("rollback", events(done)[-1]["migration"])
        assert (late.returncode, "migrator migrate redis" in late.stderr) == (TooLate.status, True)
        assert remains(a.host) == []
        report = client.stop()
    assert report.unbroken, report
    assert report.last == report.count
