"""A redis moves to and fro under load, over a link that loses packets and breaks off at random: a few times, or fifty.

There with a failback window, and back by `rollback`; or both ways by `migrate`. What an outage spoils is tried again,
as an operator does; nothing else is done by hand.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.lab import bundle, digests, redis
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from benchmarks.lab.node import LabError
from migrator.core.errors import Busy, PeerUnreachable, Unfinished
from migrator.core.phases import Hold, Phase
from tests.migrator.agents import SECONDS, STATE, Agent, agents_on, events
from tests.migrator.weather import Weather

MOVES, MANY_MOVES = 3, 50
TRIES = 30  # of one move: in a storm on a busy machine one in three succeeds
LIVE = ["srv/redis"]  # what redis itself writes
UNUSED = ["usr/share", "var/lib/dpkg", "var/cache", "usr/lib/apt", "usr/sbin", "usr/lib/systemd"]
AT_REST = {
    *(Phase.DONE, Phase.KEEP, Phase.RETURNED, Phase.ROLLED_BACK),
    *(Hold.DETACHED, Hold.LEFT, Hold.DISCARDED),
}


def known(agent: Agent) -> list[dict[str, str]]:
    [listed] = events(agent.migrator("list", "--json"))
    found: list[dict[str, str]] = listed["migrations"]
    return found


def place(agent: Agent) -> str:
    """Where the container lives there; empty if it does not run there."""
    [listed] = events(agent.migrator("list", "--json"))
    return next((each["bundle"] for each in listed["containers"] if each["status"] == "running"), "")


def settle(*agents: Agent) -> None:
    """Until nothing is under way anywhere."""
    deadline = time.monotonic() + SECONDS
    while True:
        under_way = [each for agent in agents for each in known(agent) if each["phase"] not in AT_REST]
        if not under_way:
            return
        if time.monotonic() > deadline:
            raise LabError(f"these do not end: {json.dumps(under_way)}")
        time.sleep(0.2)


def travel(here: Agent, there: Agent, asked: Agent, *words: str) -> int:
    """Move the container by what is ASKED of an agent, again and again until it has moved; how often."""
    for tries in range(1, TRIES + 1):
        done = asked.migrator(*words)
        settle(here, there)
        places = place(here), place(there)
        if places[1]:
            assert not places[0], "both run"
            assert done.returncode in (0, PeerUnreachable.status, Busy.status), done.stderr
            return tries
        assert places[0], "none runs"
        assert 10 <= done.returncode < Unfinished.status, done.stderr
    raise LabError(f"{TRIES} tries did not move it: {done.stderr}")


def descriptors(agent: Agent) -> int:
    """Of an agent: how many are open, beside journals, of which a number that is limited stays open."""
    assert agent.process is not None
    count = 0
    for file in Path(f"/proc/{agent.process.pid}/fd").iterdir():
        with suppress(OSError):
            count += "/journal/" not in os.readlink(file)
    return count


def others(host: Host, directory: str) -> list[str]:
    """What there is on a host of all that migrations make, beside a container that lives in DIRECTORY."""
    own = ("/run/netns/redis", "/run/runc/redis", "v-redis")
    return [
        line
        for line in remains(host)
        if not line.startswith(own)
        and (" serve " in line or not (line == directory or f"{directory}/" in line or "voyfs.bulk" in line))
    ]


@pytest.mark.timeout(7200)
def test_to_and_fro_in_bad_weather(lab: Lab, torture: bool, seed: int) -> None:
    a, b = agents_on(*map(lab.host, "ab"))
    container = bundle.redis(a.host, "redis", data_mib=4)
    a.host.run(["rm", "-rf", *(container.rootfs / path for path in UNUSED)])
    before = digests.of(a.host, container.rootfs, LIVE)
    container.start()
    container.wait_port(bundle.PORT)
    address = container.network.address
    tries: list[int] = []
    opened: list[int] = []
    began = time.monotonic()
    with (
        CounterClient(lab.host("client"), address, bundle.PORT, pause=0.002) as client,
        Weather(a.host, b.host, seed, stormy=torture) as weather,
    ):
        client.wait_replies(50)
        here, there, taken_from = a, b, ""
        for move in range(MANY_MOVES if torture else MOVES):
            if taken_from:
                tries.append(travel(here, there, there, "rollback", taken_from))
                taken_from = ""
            elif move % 4 == 0:
                tries.append(travel(here, there, here, "migrate", "redis", there.address, "--failback-window", "1h"))
                taken_from = max(each["migration"] for each in known(here) if each["phase"] == Phase.KEEP)
            else:
                tries.append(travel(here, there, here, "migrate", "redis", there.address))
            if not taken_from:
                assert remains(here.host) == []
            client.wait_replies(20)
            opened.append(max(descriptors(a), descriptors(b)))
            print(
                f"move {move + 1}: {tries[-1]} tries, {time.monotonic() - began:.0f} s, {opened[-1]} open", flush=True
            )
            here, there = there, here
        assert others(here.host, place(here)) == []
        print(f"{len(tries)} moves, {sum(tries)} tries, {weather.outages} outages, {weather.lost} packets lost")
        assert weather.outages
        if torture:
            assert min(opened[MANY_MOVES * 3 // 4 :]) <= max(opened[: MANY_MOVES // 2]), "they grow and grow"
        report = client.stop()
    assert report.unbroken, report
    assert (report.first, report.last) == (1, report.count)
    value = int(redis.command(here.host, address, "GET", "voyager"))
    assert value - report.count in (0, 1), "one that was on its way when the client ended may count"
    live = here.host.path_of(place(here)) / "store/data/srv/redis/appendonlydir"
    written = sum(path.read_bytes().count(b"INCR") for path in live.glob("*.aof"))
    assert written == value, "each is on the disk, once"
    assert digests.differing(before, digests.of(here.host, STATE / place(here) / "root", LIVE)) == []
