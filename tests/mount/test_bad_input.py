"""What people get wrong: one clear line, a status of its own, no traceback, nothing left behind."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import (
    COMMAND,
    SECONDS,
    Server,
    children,
    mounted,
    mounted_at,
    processes_of,
    run,
    served,
    until,
)
from voyfs import mounts
from voyfs.syscalls import mount, umount

# An address where nobody listens: the port is reserved.
NOBODY = "127.0.0.1:1"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "f").write_bytes(b"x")
    with served(tmp_path / "source") as server:
        yield server


@pytest.fixture
def point(tmp_path: Path) -> Path:
    path = tmp_path / "mount"
    path.mkdir()
    return path


def refused(status: int, *words: str, arguments: tuple[str | Path, ...]) -> None:
    """Running voyfs with `arguments` ends with `status` and one line that holds `words`."""
    done = run(*arguments)
    line = done.stderr
    assert done.returncode == status, line
    assert done.stdout == ""
    assert "Traceback" not in line
    said = line.splitlines()
    assert len(said) == 1, line
    assert said[0].startswith("voyfs: ")
    for word in words:
        assert word in said[0]


def clean(store: Path, point: Path | None = None) -> None:
    """A failed mount has left nothing of itself."""
    assert not store.exists()
    assert not processes_of(store)
    if point is not None:
        assert not mounted_at(point)


def test_a_mount_point_that_is_missing_a_file_or_busy(server: Server, tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    arguments = ("mount", server.address)
    for daemon in ((), ("--daemon",)):
        missing = tmp_path / "missing"
        refused(10, "missing", "mkdir", arguments=(*arguments, missing, "--store", store, *daemon))
        clean(store)
        file = tmp_path / "file"
        file.touch()
        refused(10, "not a directory", arguments=(*arguments, file, "--store", store, *daemon))
        clean(store)
        mount(b"none", os.fsencode(point), b"tmpfs", 0, b"size=4k")
        try:
            refused(10, "tmpfs", "unmount", arguments=(*arguments, point, "--store", store, *daemon))
        finally:
            umount(os.fsencode(point), 0)
        clean(store, point)


def test_names_of_other_mounts_do_not_matter(server: Server, tmp_path: Path, point: Path) -> None:
    """The mount table is everybody's, and the kernel escapes only some of the ends of lines that text may have."""
    others = [tmp_path / f"odd{mark}name - x" for mark in "\n\x0b\x0c\r\x1c\x85\u2028\udcff"]
    for other in others:
        other.mkdir()
        mount(b"odd\x0cnone", os.fsencode(other), b"tmpfs", 0, b"size=4k")
    try:
        with mounted(server.address, point, tmp_path / "store") as made:
            done = run("status", point, "--json")
            assert done.returncode == 0, done.stderr
            made.unmount()
        assert not any(mounted_at(other) != 1 for other in others)
    finally:
        for other in others:
            umount(os.fsencode(other), 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_a_start_is_not_told_of_unmounting(tmp_path: Path, point: Path, number: signal.Signals) -> None:
    command = [*COMMAND, "mount", NOBODY, str(point), "--store", str(tmp_path / "store")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        until(lambda: children(process.pid))  # its daemon, which waits for the source
        process.send_signal(number)
        assert process.communicate(timeout=SECONDS) == ("", "")
        assert process.returncode == 128 + number
    assert not mounted_at(point)
    assert not processes_of(tmp_path / "store")


def test_nobody_answers(tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    for daemon in ((), ("--daemon",)):
        refused(3, NOBODY, "voyfs serve", arguments=("mount", NOBODY, point, "--store", store, *daemon))
        clean(store, point)


def test_an_empty_store_directory_stays_as_it_was(tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    refused(3, NOBODY, arguments=("mount", NOBODY, point, "--store", store))
    assert os.listdir(store) == []


def test_an_address_that_is_none(tmp_path: Path, point: Path) -> None:
    for address in ("nonsense", "host:99999"):
        refused(12, arguments=("mount", address, point, "--store", tmp_path / "store"))
    refused(12, arguments=("serve", tmp_path, "--listen", "host:"))
    clean(tmp_path / "store", point)


def test_off_loopback_needs_tls(tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    refused(13, "TLS", arguments=("mount", "192.0.2.1:7400", point, "--store", store))
    refused(13, "TLS", arguments=("serve", tmp_path, "--listen", "0.0.0.0:0"))
    nothing = tmp_path / "none.pem"
    files = ("--cert", nothing, "--key", nothing, "--ca", nothing)
    refused(13, arguments=("mount", "192.0.2.1:7400", point, "--store", store, *files))
    refused(13, "--key", arguments=("mount", "192.0.2.1:7400", point, "--store", store, "--cert", nothing))
    clean(store, point)


def test_an_export_that_is_missing_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refused(11, "missing", arguments=("serve", tmp_path / "missing"))
    refused(11, "file", arguments=("serve", tmp_path / "file"))


def test_a_port_that_is_taken(server: Server, tmp_path: Path) -> None:
    refused(12, arguments=("serve", tmp_path, "--listen", server.address))


def test_what_answers_is_not_a_voyfs_server(tmp_path: Path, point: Path) -> None:
    with subprocess.Popen(
        ["python3", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=tmp_path,
    ) as other:
        try:
            assert other.stdout is not None
            port = other.stdout.readline().split(" port ")[1].split()[0]
            done = run("mount", f"127.0.0.1:{port}", point, "--store", tmp_path / "store")
            assert done.returncode in (3, 4, 5)
            assert "Traceback" not in done.stderr
        finally:
            other.kill()
    clean(tmp_path / "store", point)


def test_a_store_of_another_export_in_use_or_not_one(server: Server, tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    (tmp_path / "other").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with mounted(server.address, point, store) as made:
        refused(6, "in use", str(store), arguments=("mount", server.address, elsewhere, "--store", store))
        assert (point / "f").read_bytes() == b"x"
        refused(10, "already", arguments=("mount", server.address, point, "--store", tmp_path / "second"))
        clean(tmp_path / "second")
        made.unmount()
    with served(tmp_path / "other") as other:
        refused(7, "another export", arguments=("mount", other.address, point, "--store", store))
    assert not mounted_at(point)
    assert (store / "state" / "store.db").exists()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis").write_text("years of work")
    refused(9, "not empty", arguments=("mount", server.address, point, "--store", mine))
    assert os.listdir(mine) == ["thesis"]
    refused(9, "cannot make", arguments=("mount", server.address, point, "--store", tmp_path / "no" / "parent"))
    (tmp_path / "file").touch()
    refused(9, arguments=("mount", server.address, point, "--store", tmp_path / "file"))
    shutil.rmtree(store / "state")
    assert not mounted_at(point)


def test_a_damaged_store(server: Server, tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    with mounted(server.address, point, store) as made:
        made.unmount()
    (store / "state" / "store.db").write_bytes(b"not a database" * 1000)
    refused(9, arguments=("mount", server.address, point, "--store", store))
    assert not mounted_at(point)


def test_detach_and_verify_before_everything_is_local(tmp_path: Path, point: Path, server: Server) -> None:
    with mounted(server.address, point, tmp_path / "store", "--warm"):
        refused(14, "hydrate", arguments=("detach", point))
        refused(14, "hydrate", arguments=("verify", point))
        assert (point / "f").read_bytes() == b"x"


def test_what_is_not_a_voyfs_mount(tmp_path: Path) -> None:
    for command in ("unmount", "status", "hydrate", "verify", "detach", "refresh", "upgrade"):
        refused(10, str(tmp_path), arguments=(command, tmp_path))
    for path in (tmp_path / "missing", Path("/proc")):
        refused(10, str(path), arguments=("unmount", path))
    refused(10, arguments=("prefetch", tmp_path, "f"))


def test_mounts_at_odd_paths_are_found(server: Server, tmp_path: Path) -> None:
    point = tmp_path / "a b\tc\\d\x0b\x0c\x1c\u2028e\xff"
    with mounted(server.address, point, tmp_path / "store, = odd\x85"):
        assert mounts.find(point).mountpoint == point
        assert run("status", point).returncode == 0


def test_a_mount_that_is_in_use_is_not_unmounted(server: Server, tmp_path: Path, point: Path) -> None:
    with mounted(server.address, point, tmp_path / "store"):
        with (point / "f").open("rb") as used:
            refused(10, "in use", "--lazy", arguments=("unmount", point))
            assert used.read() == b"x"
        assert run("unmount", point).returncode == 0
    assert not processes_of(tmp_path / "store")


def test_a_loss_policy_that_is_none(server: Server, tmp_path: Path, point: Path) -> None:
    for policy in ("never", "eio:x", "eio:-1", "eio:nan"):
        done = run("mount", server.address, point, "--store", tmp_path / "s", "--on-source-loss", policy)
        assert done.returncode == 2, policy
        assert "Traceback" not in done.stderr
        assert not mounted_at(point)


def test_the_daemon_option_returns_when_the_mount_answers(server: Server, tmp_path: Path, point: Path) -> None:
    store = tmp_path / "store"
    try:
        done = run("mount", server.address, point, "--store", store, "--daemon")
        assert (done.returncode, done.stderr) == (0, "")
        assert (point / "f").read_bytes() == b"x"
        assert run("hydrate", point, "--wait").returncode == 0
        assert run("verify", point).returncode == 0
        assert run("detach", point).returncode == 0
        # nothing that would wait for a source that is released
        assert run("hydrate", point, "--wait").returncode == 0
        assert run("verify", point).returncode == 15
    finally:
        done = run("unmount", point)
    assert done.returncode == 0
    until(lambda: not processes_of(store))  # the supervisor is nobody's child here


def test_prefetch_of_many_paths_and_of_none(server: Server, tmp_path: Path, point: Path) -> None:
    with mounted(server.address, point, tmp_path / "store", "--warm") as made:
        assert run("prefetch", point, "f", "/f", "missing", "../..", "f/x").stdout.startswith("3 of 5")
        assert made.status()["bytes"]["present"] == 1


def test_help_names_the_statuses() -> None:
    done = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, timeout=SECONDS, check=True)
    assert "Exit statuses" in done.stdout
