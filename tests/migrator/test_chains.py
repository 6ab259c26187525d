"""On from the target, and back: before the disk has come, and to where the container was before."""

from __future__ import annotations

from benchmarks.lab import bundle, digests
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from migrator.core.phases import Hold, Phase
from tests.migrator.agents import STATE, agents_on, until

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
