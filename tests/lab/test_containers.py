"""What the laboratory is for, walked by hand: redis, an outside client, checkpoint and restore, here and elsewhere."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from pathlib import Path

from benchmarks.lab import bundle, floor
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.node import LabError

SKIP = "/run/criu-skip-lock.conf"


def started_redis(lab: Lab) -> Container:
    container = bundle.redis(lab.host("a"), "redis", data_mib=3)
    container.start()
    container.wait_port(bundle.PORT)
    return container


def copy(source: Container, target: Container, what: str) -> None:
    origin = source.host.path_of(source.bundle / what)
    goal = target.host.path_of(target.bundle / what)
    subprocess.run(["cp", "-aT", origin, goal], check=True)


def test_a_client_sees_one_unbroken_count(lab: Lab) -> None:
    container = started_redis(lab)
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT, times=True) as client:
        client.wait_replies(50)
        report = client.stop()
    assert report.unbroken
    assert (report.first, report.last) == (1, report.count)
    assert len(report.times_ms) == report.count >= 50
    assert report.times_ms == sorted(report.times_ms)


def test_a_client_tells_of_lost_writes(lab: Lab) -> None:
    container = started_redis(lab)
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(10)

        def forget() -> None:
            with socket.create_connection((container.network.address, bundle.PORT), 10) as connection:
                connection.sendall(b"DEL voyager\r\n")
                assert connection.recv(100) == b":1\r\n"

        container.host.call(forget)
        report = client.wait(lambda report: bool(report.errors))
        assert "reply 1 after" in report.errors[0]
        assert not client.stop().unbroken


def test_a_client_tells_of_a_broken_connection(lab: Lab) -> None:
    container = started_redis(lab)
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(10)
        container.delete()
        client.wait(lambda report: bool(report.errors))
        container.start()
        report = client.wait_replies(10)
        assert report.connections > 1
        assert not client.stop().unbroken


def test_in_place_checkpoint_and_restore_keep_the_connection(lab: Lab) -> None:
    container = started_redis(lab)
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(50)
        locked = floor.measure(container)
        client.wait_replies(50)
        unlocked = floor.measure(container, lock_network=False)
        client.wait_replies(50)
        report = client.stop()
    assert report.unbroken
    assert report.gap_ms > min(locked.total, unlocked.total) > 0


def test_a_container_moves_by_hand_and_keeps_its_connection(lab: Lab) -> None:
    source = started_redis(lab)
    a, b = source.host, lab.host("b")
    target = source.at(b)
    for host in (a, b):
        host.path_of(SKIP).write_text("network-lock skip\n")
    with CounterClient(lab.host("c"), source.network.address, bundle.PORT) as client:
        client.wait_replies(50)
        b.run(["mkdir", "-p", target.bundle])
        copy(source, target, "config.json")
        copy(source, target, "rootfs")
        target.network.create(b, up=False)
        a.run(["mkdir", source.images])

        source.runc("pause", source.name)
        source.network.cut(a)
        source.runc(*source.checkpoint_command("--leave-running"), env={"CRIU_CONFIG_FILE": SKIP})
        assert source.status == "paused"
        copy(source, target, "rootfs/srv/redis")
        copy(source, target, "images")
        target.runc(*target.restore_command(), env={"CRIU_CONFIG_FILE": SKIP})
        source.runc("kill", source.name, "KILL")
        target.network.open(b)
        target.network.announce(b)

        source.delete()
        source.network.remove(a)
        client.wait_replies(50)
        a.kill()
        client.wait_replies(50)
        report = client.stop()
    assert report.unbroken
    assert target.status == "running"


def test_a_container_of_the_same_name_runs_on_two_hosts(lab: Lab) -> None:
    first = bundle.loop(lab.host("a"), "same")
    first.start()
    b = lab.host("b")
    second = first.at(b)
    b.run(["mkdir", "-p", second.bundle])
    copy(first, second, "config.json")
    copy(first, second, "rootfs")
    second.network.create(b, up=False)
    second.start()
    second.runc("pause", second.name)
    assert (first.status, second.status) == ("running", "paused")
    second.delete()
    assert (first.status, second.status) == ("running", "")
    first.runc("pause", first.name)  # and the lab ends although it is


def test_a_failed_restore_is_undone_by_a_new_network(lab: Lab) -> None:
    """The connection's dying socket stays in the namespace and would make the second restore fail."""
    source = started_redis(lab)
    host = source.host
    with CounterClient(lab.host("c"), source.network.address, bundle.PORT) as client:
        client.wait_replies(50)
        host.run(["mkdir", source.images])
        source.runc("pause", source.name)
        source.network.cut(host)
        source.runc(*source.checkpoint_command())
        source.runc(*source.restore_command())
        source.delete()
        try:
            source.runc(*source.restore_command())
        except LabError:
            assert "Can't connect inet socket back" in host.path_of(source.images / "restore.log").read_text()
        else:
            raise AssertionError("the second restore did not fail")
        source.network.remove(host)
        source.network.create(host, up=False)
        source.runc(*source.restore_command())
        source.network.open(host)
        source.network.announce(host)
        client.wait_replies(50)
        assert client.stop().unbroken


def test_a_bundle_holds_every_kind_of_file(lab: Lab) -> None:
    container = bundle.loop(lab.host("a"), "files")
    root = container.host.path_of(container.rootfs) / "srv/specials"
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in root.iterdir()}
    assert kinds == {
        *(stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK),
    }
    sparse = (root / "sparse").stat()
    assert sparse.st_blocks * 512 < sparse.st_size
    assert (root / "linked").stat().st_nlink == 3
    assert os.getxattr(root / "xattr", "user.voyager") == bytes(range(256))
    assert os.getxattr(root / "capable", "security.capability")[4:8] == (1 << 13).to_bytes(4, "little")
    assert (root / "setuid").stat().st_mode & 0o7777 == 0o6755
    config = json.loads(Path(container.host.path_of(container.bundle / "config.json")).read_text())
    assert "rlimits" not in config["process"]


def test_data_files_have_the_size_asked_for(tmp_path: Path) -> None:
    bundle.write_data(tmp_path / "data", 19)
    sizes = [path.stat().st_size for path in (tmp_path / "data").iterdir()]
    assert len(sizes) == bundle.DATA_FILES
    assert sum(sizes) == 19 << 20
