"""The disk's adapter with real voyfs, on this machine: what the driver and the holder rely on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator import control, procs, syscalls
from migrator.core.errors import DiskFailed, Taken
from migrator.disk import VoyfsDisk, VoyfsExport
from migrator.mounted import VoyfsMount

VOYFS = (sys.executable, "-m", "voyfs.cli")
LARGE = os.urandom(3 << 20)


@pytest.fixture
def disk(tmp_path: Path) -> VoyfsDisk:
    return VoyfsDisk(VOYFS, None, tmp_path / "state")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "etc/motto").write_text("live\n")
    (root / "large").write_bytes(LARGE)
    return root


@pytest.fixture
def export(disk: VoyfsDisk, tree: Path) -> Iterator[VoyfsExport]:
    export = disk.export(str(tree), "127.0.0.1:0")
    yield export
    export.stop()


@pytest.fixture
def mounted(disk: VoyfsDisk, export: VoyfsExport, tmp_path: Path) -> Iterator[VoyfsMount]:
    mounted = disk.mount(export.address, str(tmp_path / "c/root"), str(tmp_path / "c/store"))
    yield mounted
    mounted.discard()


def test_a_tree_moves(disk: VoyfsDisk, export: VoyfsExport, mounted: VoyfsMount, tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "c/root"
    mounted.look_up(["/etc", "/missing", "/large"])
    assert (mounted.prefetched.bytes_total, mounted.prefetched.complete) == (0, True)
    mounted.prefetch(["/etc/motto", "/missing"])
    prefetched, size = mounted.prefetched, (tree / "etc/motto").stat().st_size
    assert (prefetched.bytes_present, prefetched.bytes_total, prefetched.files_total) == (size, size, 1)
    assert (prefetched.complete, prefetched.eta) == (True, 0.0)
    assert 0 < control.ask(tmp_path / "c/store", "status")["status"]["bytes"]["present"] < len(LARGE)
    (tree / "etc/motto").write_text("live and let live\n")
    (tree / "new").write_text("new\n")
    assert mounted.refresh(["/etc/motto", "/missing"]) >= 1
    assert (root / "etc/motto").read_text() == "live and let live\n"
    assert (root / "new").read_text() == "new\n"
    with pytest.raises(DiskFailed, match="detach"):
        mounted.detach()
    (root / "written").write_text("here\n")
    times = {"/etc": 1_000_000_007, "/missing": 5}
    mounted.set_times(times)
    assert (root / "etc").stat().st_mtime_ns == times["/etc"]

    last = list(mounted.hydrate())[-1]
    assert last.complete
    assert last.bytes_present == last.bytes_total
    mounted.verify()
    assert not mounted.detached
    mounted.detach()
    mounted.detach()
    assert mounted.detached
    assert export.wait_released(30)
    assert not export.alive
    assert (root / "large").read_bytes() == LARGE
    assert (root / "written").read_text() == "here\n"


def test_a_difference_is_named(mounted: VoyfsMount, tree: Path) -> None:
    list(mounted.hydrate())
    (tree / "large").write_bytes(b"changed behind our back")
    with pytest.raises(DiskFailed, match="large"):
        mounted.verify()


def test_a_mount_that_waits_for_a_dead_source_is_discarded(
    disk: VoyfsDisk, export: VoyfsExport, mounted: VoyfsMount, tmp_path: Path
) -> None:
    mounted.look_up(["/large"])
    os.kill(export.facts["pid"], signal.SIGKILL)
    assert export.wait_released(30)
    reader = subprocess.Popen(["cat", tmp_path / "c/root/large"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.raises(subprocess.TimeoutExpired):
        reader.wait(0.2)  # for its source
    mounted.discard()
    assert reader.wait(30) != 0
    assert syscalls.mounts_below(str(tmp_path / "c")) == []
    assert procs.users_of(str(tmp_path / "c/store")) == []
    disk.remove(str(tmp_path / "c"))
    assert not (tmp_path / "c").exists()
    mounted.discard()


def test_a_mount_is_aborted_but_never_one_that_took_its_number(
    disk: VoyfsDisk, export: VoyfsExport, tmp_path: Path
) -> None:
    control = tmp_path / "connections"
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "fusectl", control], check=True)
    try:
        first, second = (str(tmp_path / name / "root") for name in ("first", "second"))
        mounted = disk.mount(export.address, first, str(tmp_path / "first/store"))
        with contextlib.closing(syscalls.FuseAborts(first, str(control))) as abort:
            mounted.discard()
            other = disk.mount(export.address, second, str(tmp_path / "second/store"))  # on an idle machine it takes it
            try:
                abort()
                assert sorted(os.listdir(second)) == ["etc", "large"]
                with contextlib.closing(syscalls.FuseAborts(second, str(control))) as its_own:
                    its_own()
                with pytest.raises(OSError, match="not connected"):
                    os.listdir(second)
            finally:
                other.discard()
    finally:
        subprocess.run(["umount", control], check=True)


def test_nothing_is_deleted_below_a_mount(disk: VoyfsDisk, mounted: VoyfsMount, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="is mounted"):
        disk.remove(str(tmp_path / "c"))
    assert (tree / "etc/motto").exists()
    assert (tmp_path / "c/root/etc/motto").exists()


def test_a_later_agent_finds_an_export_again_and_ends_strays(
    disk: VoyfsDisk, export: VoyfsExport, tree: Path, tmp_path: Path
) -> None:
    stray = disk.export(str(tree), "127.0.0.1:0")
    later = VoyfsDisk(VOYFS, None, tmp_path / "state")
    later.end_strays([export.facts])
    assert stray.wait_released(30)
    adopted = later.adopt(export.facts)
    assert adopted is not None
    assert adopted.alive
    assert adopted.address == export.address
    adopted.stop()
    assert not export.alive
    assert later.adopt(export.facts) is None
    assert list((tmp_path / "state/exports").iterdir()) == []


def test_a_server_comes_back_at_its_address(disk: VoyfsDisk, export: VoyfsExport, tree: Path) -> None:
    address = export.address
    export.stop()
    again = disk.export(str(tree), address)
    assert again.address == address
    again.stop()


@pytest.mark.parametrize("program", [["/nowhere/voyfs"], ["false"]])
def test_programs_that_fail(tmp_path: Path, tree: Path, program: list[str]) -> None:
    disk = VoyfsDisk(program, None, tmp_path / "state")
    with pytest.raises(DiskFailed):
        disk.export(str(tree), "127.0.0.1:0")
    with pytest.raises(DiskFailed):
        disk.mount("127.0.0.1:1", str(tmp_path / "c/root"), str(tmp_path / "c/store"))
    assert syscalls.mounts_below(str(tmp_path)) == []
    assert list((tmp_path / "state/exports").iterdir()) == []


def test_what_cannot_be_exported_or_mounted(disk: VoyfsDisk, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DiskFailed, match="nothing"):
        disk.export(str(tmp_path / "nothing"), "127.0.0.1:0")
    with pytest.raises(DiskFailed, match="mount"):
        disk.mount("127.0.0.1:1", str(tmp_path / "c/root"), str(tmp_path / "c/store"))
    assert syscalls.mounts_below(str(tmp_path)) == []


def test_a_directory_is_claimed_once(disk: VoyfsDisk, tmp_path: Path) -> None:
    disk.claim(str(tmp_path / "containers/box"))
    with pytest.raises(Taken, match="containers/box"):
        disk.claim(str(tmp_path / "containers/box"))
    (tmp_path / "file").touch()
    with pytest.raises(DiskFailed):
        disk.claim(str(tmp_path / "file/containers/box"))
