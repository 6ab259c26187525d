"""The pure rules: config rewriting, preflight, timeline, what restoring will open, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.core import argv, bundle, errors, limits, preflight, timeline, warm
from migrator.core.errors import MigratorError, NoSpace, NotReady, Taken, Unsupported
from migrator.core.identity import Identity, Route
from migrator.core.plan import Container
from migrator.core.preflight import HostFacts, SourceFacts, TargetFacts
from migrator.core.volumes import Kind, Place, Volume
from tests.migrator.world import CONFIG, CONTAINER, IDENTITY

HOST = HostFacts("target", "runc 1.1.5", "runc", "4.2.1", "", "", 1 << 32)
SOURCE = SourceFacts(replace(HOST, name="source"))
TARGET = TargetFacts(HOST, False, "/var/lib/migrator/containers/box", "", False, False, True, (), 1 << 40)

ODD = Volume("/x", "/srv", Kind.SKIP, Place(True), "shows a thing")


def with_config(**changes: Any) -> Container:
    return replace(CONTAINER, config={**CONFIG, **changes})


def bind(options: list[str], source: str = "/etc/resolv.conf") -> dict[str, Any]:
    return {"destination": "/etc/resolv.conf", "source": source, "type": "bind", "options": options}


def test_all_is_well() -> None:
    preflight.raise_first(preflight.source_rows(CONTAINER, SOURCE))
    preflight.raise_first(preflight.target_rows(CONTAINER, IDENTITY, TARGET))


@pytest.mark.parametrize(
    ("container", "facts", "error", "says"),
    [
        (with_config(process={"terminal": True}), SOURCE, Unsupported, "terminal"),
        (replace(CONTAINER, root_is_directory=False), SOURCE, Unsupported, "not a directory"),
        (
            CONTAINER,
            replace(SOURCE, volumes=(ODD,)),
            Unsupported,
            "/x of container box shows a thing",
        ),
        (with_config(mounts=[{"destination": "/x", "type": "nfs", "source": "a:/b"}]), SOURCE, Unsupported, "/x (nfs)"),
        (with_config(linux={"namespaces": [{"type": "ipc", "path": "/proc/1/ns/ipc"}]}), SOURCE, Unsupported, "ipc"),
        (CONTAINER, replace(SOURCE, network_problem="two interfaces"), Unsupported, "two interfaces"),
        (CONTAINER, replace(SOURCE, host=replace(SOURCE.host, runtime="")), NotReady, "the source has no runc"),
        (CONTAINER, replace(SOURCE, host=replace(SOURCE.host, voyfs_problem="no fuse")), NotReady, "no fuse"),
        (CONTAINER, replace(SOURCE, host=replace(SOURCE.host, memory_free=1 << 20)), NoSpace, "memory"),
    ],
)
def test_source_checks(container: Container, facts: SourceFacts, error: type[MigratorError], says: str) -> None:
    with pytest.raises(error) as caught:
        preflight.raise_first(preflight.source_rows(container, facts))
    assert says in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("facts", "error", "says"),
    [
        (replace(TARGET, host=replace(HOST, runtime="")), NotReady, "the target has no runc"),
        (replace(TARGET, host=replace(HOST, criu="")), NotReady, "the target has no criu"),
        (replace(TARGET, host=replace(HOST, criu_problem="no vDSO")), NotReady, "no vDSO"),
        (replace(TARGET, host=replace(HOST, memory_free=0)), NoSpace, "the target has 0 B of memory"),
        (replace(TARGET, container_taken=True), Taken, "container called box"),
        (replace(TARGET, directory_taken="exists"), Taken, "/var/lib/migrator/containers/box exists"),
        (replace(TARGET, namespace_taken=True), Taken, "/run/netns/box"),
        (replace(TARGET, port_taken=True), Taken, "v-box"),
        (replace(TARGET, addresses_taken=("10.0.0.2",)), Taken, "10.0.0.2"),
        (replace(TARGET, bridge_present=False), NotReady, "br0"),
        (replace(TARGET, disk_free=1 << 20), NoSpace, "1.0 MiB left"),
    ],
)
def test_target_checks(facts: TargetFacts, error: type[MigratorError], says: str) -> None:
    with pytest.raises(error) as caught:
        preflight.raise_first(preflight.target_rows(CONTAINER, IDENTITY, facts))
    assert says in caught.value.message
    assert caught.value.remedy


def test_config_for_the_target() -> None:
    config = {**CONFIG, "root": {"path": "rootfs", "readonly": True}, "mounts": [bind(["bind", "ro"])]}
    before = json.dumps(config)
    files = {"/etc/resolv.conf": PurePosixPath("/t/files/0")}
    result = bundle.for_target(config, PurePosixPath("/t/root"), files)
    assert result["root"] == {"path": "/t/root", "readonly": True}
    assert result["mounts"][0]["source"] == "/t/files/0"
    assert json.dumps(config) == before


@pytest.mark.parametrize(
    ("namespaces", "expected"),
    [([], None), ([{"type": "network"}], ""), ([{"type": "pid"}, {"type": "network", "path": "/n"}], "/n")],
)
def test_network_namespace(namespaces: list[dict[str, str]], expected: str | None) -> None:
    assert bundle.network_namespace({"linux": {"namespaces": namespaces}}) == expected


MAPS = """\
55d0c0000000-55d0c0001000 r--p 00000000 fe:00 131 /usr/bin/redis-server
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000001000-7f0000002000 r-xp 00000000 fe:00 132 /usr/lib/libc.so.6
7f0000002000-7f0000003000 rw-s 00000000 fe:00 133 /data/shared map
7f0000003000-7f0000004000 r--s 00000000 fe:00 134 /usr/share/cache
7f0000004000-7f0000005000 r-xp 00000000 fe:00 135 /tmp/gone (deleted)
7f0000005000-7f0000006000 rw-s 00000000 00:01 9 /dev/zero (deleted)
7fff00000000-7fff00001000 r-xp 00000000 00:00 0 [vdso]
"""


def test_what_restoring_will_open() -> None:
    opened = ["/data/appendonly.aof", "/dev/null", "pipe:[12]", "/", "/run/x"]
    fetch, look_up = warm.warm_paths([MAPS], opened, ["/proc", "/dev", "/dev/pts", "/run"])
    assert fetch == ["/usr/bin/redis-server", "/usr/lib/libc.so.6", "/usr/share/cache"]
    assert set(look_up) == {
        *fetch,
        "/data/shared map",
        "/data/appendonly.aof",
        "/",
        "/proc",
        "/dev",
        "/dev/pts",
        "/run",
    }


def test_a_file_that_anyone_maps_shared_and_writable_is_not_fetched() -> None:
    private = "7f0000001000-7f0000002000 r--p 00000000 fe:00 133 /data/shared map"
    fetch, look_up = warm.warm_paths([private, MAPS], [], [])
    assert "/data/shared map" not in fetch
    assert "/data/shared map" in look_up


def test_a_file_that_is_open_for_writing_is_not_fetched_but_looked_at_again() -> None:
    written = ["/usr/share/cache", "/data/log", "/gone (deleted)", "socket:[1]"]
    fetch, _ = warm.warm_paths([MAPS], [], [], written)
    assert fetch == ["/usr/bin/redis-server", "/usr/lib/libc.so.6"]
    assert warm.live_paths([MAPS, MAPS], written) == ["/data/log", "/data/shared map", "/usr/share/cache"]


@pytest.mark.parametrize(("flags", "written"), [("0100000", False), ("02100001", True), ("0102002", True)])
def test_which_descriptors_write(flags: str, written: bool) -> None:
    assert warm.is_written(f"pos:\t0\nflags:\t{flags}\nmnt_id:\t29\n") == written
    assert not warm.is_written("")


@given(st.text())
def test_odd_maps_do_not_break_it(text: str) -> None:
    warm.mapped_files(text)


def test_identity_survives_json() -> None:
    identity = replace(IDENTITY, routes=(Route("", "10.0.0.1", onlink=True), Route("10.9.0.0/16", "")))
    assert Identity.from_json(json.loads(json.dumps(identity.to_json()))) == identity


def test_container_survives_json() -> None:
    container = replace(CONTAINER, pipes=(1, 2))
    assert Container.from_json(json.loads(json.dumps(container.to_json()))) == container


def test_timeline() -> None:
    line = timeline.Timeline()
    line.add(timeline.Span("dump", "", timeline.SOURCE, 1.0, 0.5, 2048))
    line.add(timeline.Span("freeze", "", timeline.SOURCE, 0.5, 0.5))
    line.add(timeline.Span("dump", "quick", timeline.SOURCE, 1.0, 0.004))
    line.add_remote("dump", 1.0, [timeline.Measured("refresh", 0.1, 0.2)])
    assert line.downtime is None
    line.paused, line.opened = 0.5, 1.75
    found = line.to_json()
    assert found["downtime_s"] == 1.25
    assert [phase["phase"] for phase in found["phases"]] == ["freeze", "dump"]
    assert found["phases"][1]["steps"] == [
        {"name": "refresh", "side": "target", "start": 1.1, "seconds": 0.2, "bytes": 0}
    ]
    assert timeline.rows(json.loads(json.dumps(found))) == [
        ("freeze", "0.500 s", "500 ms", ""),
        ("dump", "1.000 s", "500 ms", "2.0 KiB"),
        ("  refresh (target)", "1.100 s", "200 ms", ""),
    ]


@given(st.floats(0, 1e18))
def test_bytes_for_people_are_short(count: float) -> None:
    assert len(timeline.human_bytes(count)) <= 12


def test_errors_travel_by_name() -> None:
    for kind in errors._classes(MigratorError):
        error = errors.by_kind(kind.__name__, "a\nb", remedy="c", log=["d"])
        assert type(error) is kind
        assert (error.message, error.remedy, error.log, error.kind) == ("a b", "c", ("d",), kind.__name__)
    assert type(errors.by_kind("FromTheFuture", "x")) is MigratorError


def test_runtime_command_lines() -> None:
    command = argv.RuntimeCommand("crun", PurePosixPath("/r"))
    assert command.state("box") == ["crun", "--root", "/r", "state", "box"]
    checkpoint = command.checkpoint("box", PurePosixPath("/i"), PurePosixPath("/w"))
    assert {"--leave-running", "--tcp-established"} <= set(checkpoint)
    assert checkpoint[-1] == "box"


def test_voyfs_command_lines() -> None:
    tls = argv.Tls(PurePosixPath("/c"), PurePosixPath("/k"), PurePosixPath("/a"))
    places = (PurePosixPath("/m"), PurePosixPath("/s"), PurePosixPath("/share"))
    mount = argv.voyfs_mount(["voyfs"], "h:1", *places, tls, ["/old", "/image"])
    assert mount[:4] == ["voyfs", "mount", "h:1", "/m"]
    assert "--warm" in mount
    assert mount[mount.index("--share") + 1] == "/share"
    assert mount[mount.index("--seed") :][:4] == ["--seed", "/old", "--seed", "/image"]
    assert mount[-6:] == ["--cert", "/c", "--key", "/k", "--ca", "/a"]
    assert argv.voyfs_share(["voyfs"], PurePosixPath("/share"), 7) == ["voyfs", "share", "/share", "7"]
    assert "--until-released" in argv.voyfs_serve(["voyfs"], PurePosixPath("/r"), "h:0", None)


@given(st.integers(0, 1 << 40))
def test_room_for_images_is_more_than_the_memory(memory: int) -> None:
    for container in (replace(CONTAINER, memory_bytes=memory), replace(CONTAINER, tmpfs_bytes=memory)):
        assert preflight.image_bytes(container) >= memory + limits.IMAGE_SLACK_BYTES - 1
