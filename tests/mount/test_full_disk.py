"""A store on a file system that fills up: errors for who asks, nothing wrong, and it goes on."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.test_network import data
from tests.support.compare import assert_same
from tests.support.programs import Mount, bounded, mounted, served, until
from voyfs.syscalls import MNT_DETACH, mount, umount

MIB = 1 << 20
_MS_REMOUNT = 32


class Disk:
    """A tmpfs whose size can be changed."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        path.mkdir()
        mount(b"none", os.fsencode(path), b"tmpfs", 0, b"size=%d" % size)

    def resize(self, size: int) -> None:
        mount(b"none", os.fsencode(self.path), b"tmpfs", _MS_REMOUNT, b"size=%d" % size)

    def fill(self) -> None:
        """Takes all that is left."""
        with (self.path / "ballast").open("ab", buffering=0) as ballast:
            for size in (65536, 4096, 1):
                try:
                    while ballast.write(bytes(size)):
                        pass
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017

    def empty(self) -> None:
        (self.path / "ballast").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    disk = Disk(tmp_path / "disk", 6 * MIB)
    try:
        yield disk
    finally:
        umount(os.fsencode(disk.path), MNT_DETACH)


@pytest.fixture
def made(tmp_path: Path, disk: Disk) -> Iterator[Mount]:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(8):
        (source / f"{number}").write_bytes(data(MIB, number))
    (source / "small").write_bytes(b"small" * 100)
    for number in range(3):
        (source / f"dir{number}").mkdir()
        for name in range(40):
            (source / f"dir{number}" / f"{name}").write_bytes(b"%d" % name)
    with served(source) as server, mounted(server.address, tmp_path / "mount", disk.path / "store", "--warm") as mount:
        yield mount


def test_hydration_pauses_says_so_and_goes_on(made: Mount, disk: Disk, tmp_path: Path) -> None:
    os.listdir(made.path)
    made.ask("hydrate")
    until(lambda: "space" in made.status()["paused"])
    space = os.statvfs(disk.path)
    assert space.f_bavail * space.f_frsize > MIB // 2, "the last of it is for others"
    for number in range(8):
        try:
            assert (made.path / f"{number}").read_bytes() == data(MIB, number)
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
    with pytest.raises(OSError) as caught:  # noqa: PT011
        (made.path / "new").write_bytes(bytes(6 * MIB))
    assert caught.value.errno == errno.ENOSPC
    (made.path / "new").unlink(missing_ok=True)  # there may not even have been space for its name
    disk.resize(64 * MIB)
    made.hydrate()
    assert made.status()["paused"] == ""
    assert_same(made.path, tmp_path / "source")
    assert made.ask("verify")["report"]["differences"] == []


def test_a_disk_that_is_full_to_the_last_byte_ends_no_daemon(made: Mount, disk: Disk, tmp_path: Path) -> None:
    """Not even the store's own records fit."""
    os.listdir(made.path / "dir0")
    assert (made.path / "0").read_bytes() == data(MIB, 0)
    daemon = made.daemon
    disk.fill()
    outcomes = []
    for call in (
        lambda: os.listdir(made.path / "dir1"),
        lambda: (made.path / "1").read_bytes(),
        lambda: (made.path / "0").write_bytes(b"w" * 400_000),
        lambda: (made.path / "dir0" / "1").chmod(0o600),
        lambda: (made.path / "dir0" / "2").unlink(),
        lambda: (made.path / "dir0" / "new").mkdir(),
        lambda: os.rename(made.path / "dir0" / "3", made.path / "dir0" / "4"),
        lambda: _synced(made.path / "0"),
    ):
        try:
            outcomes.append(call())
        except OSError as error:
            assert error.errno == errno.ENOSPC  # noqa: PT017
    # what was local may be read all the time
    assert (made.path / "small").stat().st_size == 500
    assert made.daemon == daemon
    disk.empty()
    assert (made.path / "1").read_bytes() == data(MIB, 1)
    assert sorted(os.listdir(made.path / "dir1")) == sorted(map(str, range(40)))
    disk.resize(64 * MIB)
    made.hydrate()
    assert made.daemon == daemon
    report = made.ask("verify")["report"]
    assert report["differences"] == []


def test_no_acknowledged_write_is_lost_when_a_daemon_dies_on_a_full_disk(made: Mount, disk: Disk) -> None:
    os.listdir(made.path)
    acknowledged: dict[int, bytes] = {}
    for number in range(4):
        disk.fill()
        with (made.path / f"{number}").open("r+b", buffering=0) as file:
            for at in range(0, MIB, 131072):
                block = bytes([number + 1]) * 131072
                try:
                    if os.pwrite(file.fileno(), block, at) == len(block):
                        acknowledged[number << 32 | at] = block
                except OSError as error:
                    assert error.errno == errno.ENOSPC  # noqa: PT017
                if at == 4 * 131072:
                    disk.empty()
        made.kill_daemon()
        os.statvfs(made.path)
    disk.resize(64 * MIB)
    made.hydrate()
    assert acknowledged
    for key, block in acknowledged.items():
        with (made.path / f"{key >> 32}").open("rb") as file:
            assert os.pread(file.fileno(), len(block), key & 0xFFFFFFFF) == block


def _synced(path: Path) -> None:
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def test_what_is_written_can_be_synced_where_nothing_more_fits(made: Mount, disk: Disk) -> None:
    """A program that hears of a failure may not try again."""
    disk.resize(32 * MIB)
    made.kill_daemon()  # the next one puts space by for the records
    os.listdir(made.path)
    with (made.path / "0").open("ab", buffering=0) as file:
        file.write(b"begins a page of its own")
        os.fsync(file.fileno())
        disk.fill()
        for _ in range(300):
            file.write(b"in it")
            os.fsync(file.fileno())


def test_room_can_be_made_on_a_full_disk(made: Mount, disk: Disk) -> None:
    """Of files of the source it is made by the next checkpoint, which takes space itself."""
    disk.resize(32 * MIB)
    made.hydrate()
    disk.fill()
    for _ in range(200):  # more than there is room for in the log's last page
        os.rename(made.path / "small", made.path / "other")
        os.rename(made.path / "other", made.path / "small")
    for number in range(4):
        (made.path / f"{number}").unlink()

    def free() -> int:
        space = os.statvfs(disk.path)
        return space.f_bavail * space.f_frsize

    until(lambda: free() >= 3 * MIB)


def test_a_daemon_can_be_replaced_on_a_full_disk(made: Mount, disk: Disk) -> None:
    disk.resize(32 * MIB)
    made.hydrate()
    os.utime(made.path / "1", (1, 1))
    for _ in range(3):
        disk.fill()
        before = made.daemon
        made.kill_daemon()
        assert bounded((made.path / "0").read_bytes) == data(MIB, 0)
        assert made.daemon != before
