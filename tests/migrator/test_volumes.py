"""Bind mounts: how each is classified, and that what they show moves like the root, for real."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from benchmarks.lab import bundle
from benchmarks.lab.container import Container
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from migrator import mounting, procfs, syscalls
from migrator.core.errors import DiskFailed, RuntimeFailed, Unsupported
from migrator.core.plan import Order, Progress
from migrator.core.volumes import Kind, Place, Volume, classify, owner
from migrator.disk import VoyfsDisk
from tests.migrator.agents import STATE, Agent, agents_on, bind, events, wrapper
from tests.migrator.test_failures import LOSE_AN_IMAGE
from tests.migrator.world import CONFIG, FakeDisk, FakeMounted, World

EXT4 = Place(True, "ext4", "/dev/vda", "rw", "/srv")
NFS = Place(True, "nfs4", "nas:/x", "rw,vers=4.2", "/web")
FILE = Place(False, "ext4")


def classified(place: Place | None, choice: str | None = None, size: int = -1, *options: str) -> Volume:
    config = {**CONFIG, "mounts": [bind("/v", "/s", *options)]}
    (volume,) = classify(
        config, {"/s": place} if place else {}, {"/s": size} if size >= 0 else {}, {"/v": choice} if choice else {}
    )
    return volume


@pytest.mark.parametrize(
    ("volume", "kind"),
    [
        (classified(EXT4), Kind.LAZY),
        (classified(Place(True, "fuse.voyfs")), Kind.LAZY),
        (classified(NFS), Kind.REMOUNT),
        (classified(FILE, None, 100, "ro"), Kind.COPY),
        (classified(EXT4, "skip"), Kind.SKIP),
        (classified(NFS, "lazy"), Kind.LAZY),
        (classified(FILE, "remount"), Kind.REMOUNT),
    ],
)
def test_kinds(volume: Volume, kind: Kind) -> None:
    assert (volume.kind, volume.problem) == (kind, "")
    assert volume.text.startswith(kind)
    assert Volume.from_json(json.loads(json.dumps(volume.to_json()))) == volume


@pytest.mark.parametrize(
    "volume",
    [
        classified(None),
        classified(FILE),
        classified(FILE, None, 100),  # writable
        classified(FILE, None, (1 << 20) + 1, "ro"),
        classified(Place(True, "fuse.sshfs")),
        classified(FILE, "lazy"),
    ],
)
def test_what_needs_a_choice(volume: Volume) -> None:
    assert volume.problem


def test_a_choice_for_nothing_is_a_problem() -> None:
    (volume,) = classify(CONFIG, {}, {}, {"/typo": "lazy"})
    assert "no bind mount" in volume.problem


def test_only_network_file_systems_are_mounted_anew() -> None:
    assert classified(NFS).remade
    assert not classified(EXT4, "remount").remade
    assert not classified(NFS, "lazy").remade


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/etc/x", (-1, "/etc/x")), ("/v", (0, "/")), ("/v/x", (0, "/x")), ("/v/w/x", (1, "/x")), ("/vv", (-1, "/vv"))],
)
def test_paths_find_their_tree(path: str, expected: tuple[int, str]) -> None:
    assert owner(path, ["/v", "/v/w"]) == expected


def test_places_of_this_host(tmp_path: Path) -> None:
    point = tmp_path / "a mount"
    (point).mkdir()
    syscalls.mount("some origin", str(point), "tmpfs", options="size=64k")
    try:
        (point / "below").mkdir()
        place = procfs.place(str(point / "below"))
        assert (place.directory, place.kind, place.origin, place.below) == (True, "tmpfs", "some origin", "/below")
        assert "size=64k" in place.options
    finally:
        syscalls.unmount(str(point))


def test_a_file_system_is_mounted_from_its_origin_and_let_go(tmp_path: Path) -> None:
    """The kernel of this machine has no client of a network file system; a tmpfs is mounted by the same words."""
    disk = VoyfsDisk(["voyfs"], None, tmp_path / "state")
    point = tmp_path / "volumes/0/mount"
    borrowed = disk.remount(Place(True, "tmpfs", "origin", "rw,size=64k"), str(point))
    assert procfs.place(str(point)).origin == "origin"
    borrowed.discard()
    assert not os.path.ismount(point)
    with pytest.raises(DiskFailed, match="cannot mount nas:/x"):
        disk.remount(NFS, str(tmp_path / "volumes/1/mount"))
    assert syscalls.mounts_below(str(tmp_path)) == []


class Broken(FakeDisk):
    """The second mount fails; `discarded` has those that were taken back."""

    def __init__(self) -> None:
        super().__init__(World(exported=True, directory=True))
        self.mounts: list[str] = []
        self.discarded: list[str] = []

    def mount(
        self, address: str, mountpoint: str, store: str, seeds: Sequence[str] = (), found: Sequence[str] = ()
    ) -> FakeMounted:
        if len(self.mounts) == 2:
            raise DiskFailed("no more")
        self.mounts.append(mountpoint)
        taken = FakeMounted(self.world)
        taken.discard = lambda: self.discarded.append(mountpoint)  # type: ignore[method-assign]
        return taken


def test_volumes_that_cannot_all_be_mounted_leave_none() -> None:
    disk = Broken()
    volumes = tuple(Volume(f"/{name}", "/s", Kind.LAZY, EXT4) for name in "ab")
    order = Order("m", "c", CONFIG, None, "h:1", volumes=volumes, volume_exports=("h:2", "h:3"))
    with pytest.raises(DiskFailed):
        mounting.mount(disk, order, "/d")
    assert sorted(disk.discarded) == ["/d/root", "/d/volumes/0/root"]


class Hydrating(FakeMounted):
    """Tells what it is given."""

    def __init__(self, told: Sequence[Progress]) -> None:
        super().__init__(World())
        self.told = told

    def hydrate(self) -> Iterator[Progress]:
        yield from self.told


def test_hydration_tells_the_sum_of_all_trees() -> None:
    def told(*present: int) -> list[Progress]:
        return [Progress(count, 10, count, 10, count, 1.0, 10.0 - count, count == 10) for count in present]

    trees = mounting.Trees(Hydrating(told(1, 10)), {"/v": Hydrating(told(2, 10))})
    *_, last = trees.hydrate()
    assert (last.bytes_present, last.bytes_total, last.complete) == (20, 20, True)


class Fetching(FakeMounted):
    """Waits, when it fetches, until all others do so too."""

    def __init__(self, all_there: threading.Barrier) -> None:
        super().__init__(World())
        self._all_there = all_there
        self.paths: list[str] = []

    def prefetch(self, paths: Sequence[str]) -> None:
        self.paths += paths
        self._all_there.wait(60)


def test_all_trees_fetch_at_once_what_lies_on_them_and_tell_the_sum() -> None:
    all_there = threading.Barrier(2)
    root, volume, other = (Fetching(all_there) for _ in range(3))
    trees = mounting.Trees(root, {"/v": volume, "/w": other})
    trees.prefetch(["/bin/a", "/v/b", "/bin/c", "/v/b"])
    assert (root.paths, volume.paths, other.paths) == (["/bin/a", "/bin/c"], ["/b"], [])
    found, each = trees.prefetched, root.prefetched
    assert (found.bytes_present, found.bytes_total) == (3 * each.bytes_present, 3 * each.bytes_total)
    trees.prefetch([])


SCRIPT = """
exec 3>>/data/log
mkdir -p /scratch/kept
echo here >/scratch/kept/file
while :; do
    echo $(cat /more/word /scratch/kept/file) $(ls /behind | wc -l) $(cat /shared/name) >&3
    sleep 0.05
done
"""


def volume_container(a: Agent) -> Container:
    """A shell that logs onto a volume what it finds on the others."""
    container = bundle.make(a.host, "shell", ["/bin/sh", "-c", SCRIPT], data_mib=1)
    base = a.host.path_of(a.host.data / "volumes")
    for name in ("data", "more", "behind"):
        (base / name).mkdir(parents=True)
    bundle.write_specials(base / "data/specials")
    bundle.write_data(base / "data/big", 4)
    (base / "more/word").write_text("word\n")
    (base / "behind/file").touch()

    def change(config: dict[str, Any]) -> None:
        for name in ("data", "more", "behind"):
            config["mounts"].append(bind(f"/{name}", str(a.host.data / "volumes" / name)))
        config["mounts"].append(bind("/shared", str(a.host.data / "shared")))
        config["mounts"].append({"destination": "/scratch", "type": "tmpfs", "source": "tmpfs", "options": []})

    bundle.edit_config(container, change)
    return container


def shared_on(agent: Agent) -> None:
    """What both hosts have at the same path."""
    path = agent.host.path_of(agent.host.data / "shared")
    path.mkdir()
    (path / "name").write_text(f"{agent.host.name}\n")


CHOICES = ("--volume", "/behind=skip", "--volume", "/shared=remount")


def test_volumes_move_with_their_container(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = volume_container(a)
    shared_on(a)
    container.start()
    log = a.host.path_of(a.host.data / "volumes/data/log")
    a.host.run(["sh", "-c", f"until grep -q word {a.host.data}/volumes/data/log; do :; done"])

    # The same path is not there yet: a check finds it, before anything is touched.
    done = a.migrator("check", "shell", b.address, "--json", *CHOICES)
    failed = [row["problem"] for row in json.loads(done.stdout)["checks"] if row["state"] == "fails"]
    assert failed == [f"container shell needs {a.host.data}/shared of its host, and the target has not"]
    shared_on(b)
    done = a.migrator("check", "shell", b.address, "--json", *CHOICES)
    assert done.returncode == 0, done.stdout
    kinds = {volume["path"]: volume["kind"] for volume in json.loads(done.stdout)["volumes"]}
    assert kinds == {"/data": "lazy", "/more": "lazy", "/behind": "skip", "/shared": "remount"}
    assert 0 < json.loads(done.stdout)["prediction"]["tmpfs_bytes"] < 1 << 20, "what is in /scratch"
    # A file that is open on what would stay behind.
    refused = events(a.migrate("shell", b, "--volume", "/data=skip"))[-1]
    assert refused["kind"] == Unsupported.__name__
    assert "has /data/log open, on a volume that stays behind" in refused["error"]

    # A failure leaves nothing of the volumes on the target.
    b.stop()
    b.options = ("--runtime", wrapper(b.host, "runc", "restore", LOSE_AN_IMAGE))
    b.start()
    refused = events(a.migrate("shell", b, *CHOICES))[-1]
    assert refused["kind"] == RuntimeFailed.__name__, refused
    assert remains(b.host) == []
    assert container.status == "running"
    b.stop()
    b.options = ()
    b.start()

    done = a.migrate("shell", b, *CHOICES)
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    assert not [line for line in remains(a.host) if "shell" not in line]
    before = log.read_text()
    a.host.kill()
    moved = b.host.path_of(STATE / "containers/shell/volumes")
    lines = (moved / "0/store/data/log").read_text()
    assert lines.startswith(before)
    assert before.splitlines()[-1] == "word here 1 a"
    b.host.run(["sh", "-c", f"until grep -q 'word here 0 b' {STATE}/containers/shell/volumes/0/root/log; do :; done"])
    specials = moved / "0/store/data/specials"
    assert os.stat(specials / "linked").st_nlink == 3
    assert container.at(b.host).status == "running"
    kinds = {place: kind_at(b, place) for place in ("/data", "/more", "/scratch")}
    assert kinds == {"/data": "fuse.voyfs", "/more": "fuse.voyfs", "/scratch": "tmpfs"}


def kind_at(agent: Agent, place: str) -> str:
    """The type of the file system that the moved container has at PLACE."""
    table = agent.host.run(["runc", "exec", "shell", "cat", "/proc/self/mountinfo"]).stdout
    return next(line.split(" - ")[1].split()[0] for line in table.splitlines() if line.split()[4] == place)


def test_wrong_choices_are_usage_errors() -> None:
    for text in ("data=lazy", "/data=later", "/data"):
        done = subprocess.run(
            [".venv/bin/migrator", "check", "x", "y", "--volume", text], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert "--volume" in done.stderr


def test_places_on_the_target_are_told_for_what_has_one() -> None:
    volumes = [
        Volume("/a", "/s", Kind.LAZY, EXT4),
        Volume("/b", "/s", Kind.REMOUNT, NFS),
        Volume("/c", "/s", Kind.REMOUNT, EXT4),
        Volume("/d", "/s", Kind.SKIP, EXT4),
        Volume("/e", "/s", Kind.COPY, FILE),
    ]
    assert mounting.places("/x", volumes) == {
        "/a": PurePosixPath("/x/volumes/0/root"),
        "/b": PurePosixPath("/x/volumes/1/mount/web"),
        "/d": PurePosixPath("/x/volumes/3/empty"),
    }
