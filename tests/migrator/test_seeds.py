"""What the target has already does not cross: what the container left there, and what the user names."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from benchmarks.lab import bundle, digests
from benchmarks.lab.hosts import Host, Lab
from migrator.core.errors import DiskFailed
from migrator.core.phases import Hold, Phase
from migrator.core.plan import Progress
from migrator.disk import VoyfsDisk
from migrator.places import seeds_for
from tests.migrator.agents import STATE, Agent, agents_on, events
from tests.migrator.world import FakeJournal, World

CONTAINERS = PurePosixPath("/state/containers")
KEPT = "/state/containers/.kept/box"
VOYFS = (sys.executable, "-m", "voyfs.cli")
LARGE = os.urandom(3 << 20)
LIVE = ["srv/redis"]
DATA_MIB = 16


def left(number: int, bundle: str, root: str, name: str = "box") -> list[dict[str, Any]]:
    container = {"name": name, "bundle": bundle, "root": root}
    return [{"decision": Phase.DONE, "time": number, "side": "source", "container": container}]


def test_what_a_container_has_left_here_is_found_the_latest_first() -> None:
    journal = FakeJournal(World(), "target")
    assert seeds_for("box", CONTAINERS, journal) == [KEPT]
    place = "/state/containers/box"
    journal._all["m1"] = left(1, "/b/box", "/roots/box")
    journal._all["m2"] = left(2, "/b/other", "/roots/other", name="other")
    journal._all["m3"] = [{"decision": Hold.LEFT, "time": 3, "side": "target", "container": "box"}]
    journal._all["m4"] = left(4, place, f"{place}/root")
    journal._all["m5"] = left(5, place, f"{place}/root")
    assert seeds_for("box", CONTAINERS, journal) == [f"{place}/store/data", "/roots/box", KEPT]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/motto").write_text("live\n")
    (root / "large").write_bytes(LARGE)
    return root


def bring(disk: VoyfsDisk, tree: Path, to: Path, seeds: list[str], found: list[str]) -> Progress:
    """All of TREE by a mount; the last that it tells."""
    export = disk.export(str(tree), "127.0.0.1:0")
    try:
        mounted = disk.mount(export.address, str(to / "root"), str(to / "store"), seeds, found)
        try:
            *_, last = mounted.hydrate()
            assert (to / "root/large").read_bytes() == LARGE
        finally:
            mounted.discard()
    finally:
        export.stop()
    return last


def test_a_mount_takes_what_seeds_have(tree: Path, tmp_path: Path) -> None:
    disk = VoyfsDisk(VOYFS, None, tmp_path / "state")
    shutil.copytree(tree, tmp_path / "old")
    seed, gone = str(tmp_path / "old"), str(tmp_path / "gone")
    without = bring(disk, tree, tmp_path / "0", [], [gone])
    assert (without.seed_bytes, without.fetched_bytes >= len(LARGE)) == (0, True)
    for number, (seeds, found) in enumerate(([[seed], []], [[], [gone, seed]], [[seed], [seed, gone]]), 1):
        told = bring(disk, tree, tmp_path / str(number), seeds, found)
        assert told.seed_bytes >= len(LARGE) > told.fetched_bytes


def test_a_seed_that_is_of_no_use_is_an_error_if_it_was_asked_for(tree: Path, tmp_path: Path) -> None:
    disk = VoyfsDisk(VOYFS, None, tmp_path / "state")
    inside = str(tmp_path / "1/root")  # the mount point
    with pytest.raises(DiskFailed, match="gone"):
        bring(disk, tree, tmp_path / "0", [str(tmp_path / "gone")], [str(tree)])
    assert bring(disk, tree, tmp_path / "1", [], [inside]).seed_bytes == 0


def seeded(agent: Agent, to: Agent, *options: str) -> int:
    """Migrate; how many bytes the target took from what it had."""
    done = agent.migrate("redis", to, *options)
    assert done.returncode == 0, done.stderr
    found: int = events(done)[-1]["result"]["seed_bytes"]
    return found


def test_back_where_it_was_only_changes_cross(lab: Lab) -> None:
    a, b = agents_on(*map(lab.host, "ab"))
    container = bundle.redis(a.host, "redis", data_mib=DATA_MIB)
    a.host.run(["rm", "-rf", container.rootfs / "usr/share", container.rootfs / "var/lib/dpkg"])
    before = digests.of(a.host, container.rootfs, LIVE)
    named = Host.data / "image"
    shutil.copytree(a.host.path_of(container.rootfs / bundle.DATA), b.host.path_of(named / bundle.DATA))
    container.start()
    container.wait_port(bundle.PORT)
    assert seeded(a, b, "--seed", str(named)) >= DATA_MIB << 20
    b.host.run(["rm", "-rf", named])
    assert seeded(b, a) >= DATA_MIB << 20, "its first root is there"
    assert seeded(a, b) >= DATA_MIB << 20, "and there what it has left"
    assert digests.differing(before, digests.of(b.host, STATE / "containers/redis/root", LIVE)) == []
    assert "from seeds: " in a.migrator("status", known(a)[-1]).stdout


def known(agent: Agent) -> list[str]:
    return [each["migration"] for each in events(agent.migrator("list", "--json"))[0]["migrations"]]
