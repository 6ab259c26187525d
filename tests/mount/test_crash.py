"""Daemons and supervisors that are killed, and users of the mount that must not notice."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import MakePair
from tests.mount.test_network import data, some_files
from tests.support.compare import snapshot
from tests.support.programs import SECONDS, bounded, first_line, mounted, mounted_at, processes_of, run, until
from tests.support.trees import make_tree

MIB = 1 << 20

USER = """
import fcntl, mmap, os, sys
os.chdir("dir")
open_file = open("../big", "r+b")
gone = open("gone", "w+b")
gone.write(b"gone" * 1000); gone.flush()
os.unlink("gone")
lazy = open("../lazy", "rb")
os.unlink("../lazy")
directory = os.open("below", os.O_RDONLY)
os.rmdir("below")
lock = open("../local", "r+b")
fcntl.lockf(lock, fcntl.LOCK_EX)
view = mmap.mmap(open_file.fileno(), 1 << 20)
view[100:104] = b"mmap"
print("ready", flush=True)
for line in sys.stdin:
    number = int(line)
    view[200:204] = b"%04d" % number
    view.flush()
    os.pwrite(open_file.fileno(), b"%08d" % number, 3 << 20)
    assert os.pread(open_file.fileno(), 8, 3 << 20) == b"%08d" % number
    assert os.pread(open_file.fileno(), 4, 100) == b"mmap"
    gone.seek(0); assert gone.read() == b"gone" * 1000
    gone.seek(0, 2); gone.write(b""); gone.flush()
    os.fsync(gone.fileno())
    assert os.pread(lazy.fileno(), 100, number * 131072) == bytes([7]) * 100, number
    assert os.fstat(lazy.fileno()).st_nlink == 0
    assert sorted(os.listdir(".")) == sorted({"f", "made"} & set(os.listdir("."))), os.listdir(".")
    open("made", "wb").write(b"%d" % number)
    assert os.listdir(directory) == []
    print("done", number, flush=True)
"""


def _prepare(source: Path) -> None:
    some_files(source)
    (source / "lazy").write_bytes(bytes([7]) * (20 * 131072))


def test_users_of_a_mount_do_not_notice_that_its_daemon_was_killed(pair: MakePair) -> None:
    made = pair("--warm", prepare=_prepare)
    inode = os.stat(made.path / "big").st_ino
    with subprocess.Popen(
        [sys.executable, "-c", USER], cwd=made.path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as user:
        try:
            assert user.stdin is not None
            assert first_line(user) == "ready"
            for number in range(4):
                before = made.mount.daemon
                user.stdin.write(f"{number}\n")
                user.stdin.flush()
                made.mount.kill_daemon()
                assert first_line(user) == f"done {number}"
                assert made.mount.daemon != before
                assert os.stat(made.path / "big").st_ino == inode
            locked = run_locked(made.path / "local")
            assert locked == errno.EAGAIN, "the lock is still held"
            user.stdin.close()
            assert user.wait(SECONDS) == 0
        except BaseException:
            user.kill()
            made.mount.close()  # a call that is never answered could not be killed
            raise
    made.mount.hydrate()
    expected = bytearray(data(12 * MIB))
    expected[100:104], expected[200:204] = b"mmap", b"0003"
    expected[3 * MIB : 3 * MIB + 8] = b"00000003"
    assert (made.path / "big").read_bytes() == expected
    assert (made.path / "dir" / "made").read_bytes() == b"3"
    made.mount.unmount()
    assert not os.listdir(made.mount.store / "orphans")


def run_locked(path: Path) -> int:
    """The errno of trying to lock `path`."""
    import fcntl

    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno or 0
    return 0


# -- calls that must not be carried out twice -------------------------------------------------


class Worker(threading.Thread):
    """Repeats an operation until told to stop; what it raises is an error that users would see."""

    def __init__(self, directory: Path, body: Callable[[Path, int], None]) -> None:
        super().__init__()
        self._directory = directory
        self._body = body
        self.over = threading.Event()
        self.error: BaseException | None = None
        self.rounds = 0

    def run(self) -> None:
        try:
            while not self.over.is_set():
                self._body(self._directory, self.rounds)
                self.rounds += 1
        except BaseException as error:
            self.error = error


def _make_and_remove(directory: Path, number: int) -> None:
    path = directory / f"d{number % 3}"
    path.mkdir()
    path.rmdir()


def _create_and_unlink(directory: Path, number: int) -> None:
    path = directory / f"f{number % 3}"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(descriptor, b"%d" % number)
    os.close(descriptor)
    assert path.read_bytes() == b"%d" % number
    path.unlink()


def _rename_about(directory: Path, number: int) -> None:
    a, b = directory / "a", directory / "b"
    a.write_bytes(b"a%d" % number)
    os.rename(a, b)
    assert b.read_bytes() == b"a%d" % number
    a.write_bytes(b"b%d" % number)
    os.rename(a, b)
    assert b.read_bytes() == b"b%d" % number
    b.unlink()


def _link_about(directory: Path, number: int) -> None:
    a, b = directory / "a", directory / "b"
    a.touch()
    os.link(a, b)
    assert a.stat().st_nlink == 2
    a.unlink()
    assert b.stat().st_nlink == 1
    b.unlink()


def _symlink_about(directory: Path, number: int) -> None:
    path = directory / "l"
    path.symlink_to("anywhere")
    path.unlink()
    os.mkfifo(path)
    path.unlink()


def _rename_directories(directory: Path, number: int) -> None:
    a, b = directory / "a", directory / "b"
    a.mkdir()
    b.mkdir()
    (a / "f").touch()
    os.rename(a, b)
    os.rename(b / "f", directory / "f")
    (directory / "f").unlink()
    b.rmdir()


def _xattrs_about(directory: Path, number: int) -> None:
    path = directory / "f"
    path.touch()
    os.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    os.removexattr(path, "user.a")


def _append(directory: Path, number: int) -> None:
    with (directory / "log").open("ab", buffering=0) as file:
        assert file.write(b"%08d\n" % number) == 9


WORK = (
    _make_and_remove,
    _create_and_unlink,
    _rename_about,
    _link_about,
    _symlink_about,
    _rename_directories,
    _xattrs_about,
    _append,
)


def test_no_call_fails_or_is_carried_out_twice_when_daemons_are_killed(pair: MakePair, torture: bool) -> None:
    made = pair(prepare=make_tree)
    workers = []
    for body in WORK:
        directory = made.path / f"work{body.__name__}"
        directory.mkdir()
        workers.append(Worker(directory, body))
    for worker in workers:
        worker.start()
    try:
        for _ in range(200 if torture else 8):
            rounds = [worker.rounds for worker in workers]
            made.mount.kill_daemon()
            os.statvfs(made.path)
            for worker, before in zip(workers, rounds, strict=True):
                while worker.rounds <= before and not worker.error:
                    os.statvfs(made.path)
    finally:
        for worker in workers:
            worker.over.set()
        for worker in workers:
            worker.join(SECONDS)
    failures = {body.__name__: worker.error for body, worker in zip(WORK, workers, strict=True) if worker.error}
    assert not failures
    log = (made.path / "work_append" / "log").read_bytes().splitlines()
    assert log == [b"%08d" % number for number in range(workers[-1].rounds)]
    for body in WORK[:-2]:
        assert not os.listdir(made.path / f"work{body.__name__}"), body.__name__
    made.mount.hydrate()
    assert made.mount.ask("verify")["report"]["differences"] == []
    made.mount.unmount()
    assert not os.listdir(made.mount.store / "orphans")


@pytest.mark.parametrize("hydrating", [False, True])
def test_reading_and_writing_go_on_through_kills(pair: MakePair, hydrating: bool, torture: bool) -> None:
    """One writer with a model of what was acknowledged, while the daemon dies again and again."""
    size = 6 * MIB

    def prepare(source: Path) -> None:
        source.mkdir()
        (source / "f").write_bytes(data(size))
        (source / "other").write_bytes(data(30 * MIB, 1))

    made = pair(*(() if hydrating else ("--warm",)), prepare=prepare)
    choose = random.Random(1)
    model = bytearray(data(size))
    over = threading.Event()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            with (made.path / "f").open("r+b", buffering=0) as file:
                while not over.is_set():
                    at, length = choose.randrange(size), choose.choice((10, 5000, 131072, 300_000))
                    if choose.random() < 0.5:
                        written = choose.randbytes(min(length, size - at))
                        assert os.pwrite(file.fileno(), written, at) == len(written)
                        model[at : at + len(written)] = written
                    elif choose.random() < 0.05:
                        os.ftruncate(file.fileno(), at)
                        os.ftruncate(file.fileno(), size)
                        model[at:] = bytes(size - at)
                    else:
                        assert os.pread(file.fileno(), length, at) == model[at : at + length]
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(60 if torture else 6):
            made.mount.kill_daemon()
            os.statvfs(made.path)
    finally:
        over.set()
        thread.join(SECONDS)
    assert not failure, failure
    made.mount.hydrate()
    assert (made.path / "f").read_bytes() == model
    assert (made.path / "other").read_bytes() == data(30 * MIB, 1)
    assert (made.mount.store / "data" / "f").read_bytes() == model


# -- nothing but the store left ---------------------------------------------------------------


def test_a_store_alone_gives_back_every_write(pair: MakePair, tmp_path: Path) -> None:
    made = pair("--warm", prepare=make_tree)
    (made.path / "etc" / "new").write_bytes(b"new" * 100_000)
    with (made.path / "bin" / "setuid").open("r+b") as file:
        file.seek(150_000)
        file.write(b"changed")
    os.truncate(made.path / "bin" / "capable", 1000)
    (made.path / "tmp" / "fifo").unlink()
    os.rename(made.path / "home", made.path / "house")
    (made.path / "var" / "lib").chmod(0o711)
    os.utime(made.path / "var", ns=(5, 7))
    before = snapshot(made.path)
    made.mount.kill_all()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        os.statvfs(made.path)
    assert caught.value.errno == errno.ENOTCONN
    with mounted(made.server.address, made.path, made.mount.store) as again:
        assert "cleaned away a dead mount" in again.log.read_text()
        assert mounted_at(made.path) == 1
        assert snapshot(made.path) == before
        assert os.stat(made.path / "var").st_mtime_ns == 7
        again.hydrate()
        assert snapshot(made.path) == before
        assert again.ask("verify")["report"]["differences"] == []
        again.unmount()
    assert not os.listdir(made.mount.store / "orphans")


def test_unmount_cleans_a_dead_mount(pair: MakePair) -> None:
    made = pair(prepare=some_files)
    made.mount.kill_all()
    done = run("unmount", made.path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dead mount" in done.stdout
    assert not mounted_at(made.path)
    assert run("unmount", made.path).returncode == 10


def test_a_mount_outlives_its_supervisor_as_long_as_the_daemon_lives(pair: MakePair) -> None:
    made = pair(prepare=some_files)
    made.mount.supervisor.send_signal(signal.SIGKILL)
    made.mount.supervisor.wait(SECONDS)
    assert (made.path / "big").read_bytes() == data(12 * MIB)
    assert run("unmount", made.path).returncode == 0
    until(lambda: not processes_of(made.mount.store))  # the daemon is nobody's child here


def test_sigterm_unmounts(pair: MakePair) -> None:
    made = pair(prepare=some_files)
    made.mount.supervisor.send_signal(signal.SIGTERM)
    assert made.mount.supervisor.wait(SECONDS) == 0
    assert not mounted_at(made.path)
    assert not processes_of(made.mount.store)


def test_a_daemon_is_replaced_on_request_without_its_users_noticing(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    before = made.mount.daemon
    with (made.path / "big").open("rb") as big:
        assert big.read(10) == data(12 * MIB)[:10]
        assert run("upgrade", made.path).returncode == 0
        assert big.read() == data(12 * MIB)[10:]
    assert made.mount.daemon != before


def test_a_killed_daemon_does_not_need_its_source(pair: MakePair) -> None:
    """Nor is it put off by another export that answers at that address now."""
    made = pair("--warm", prepare=some_files)
    (made.path / "local").read_bytes()
    made.server.stop()
    made.mount.kill_daemon()
    descriptor = os.open(made.path / "local", os.O_RDONLY | os.O_DIRECT)
    os.close(descriptor)
    assert (made.path / "local").read_bytes() == b"local" * 1000
    other = made.source.parent / "other"
    other.mkdir()
    (other / "small").write_bytes(b"wrong")
    made.server._path = other
    made.server.start()
    made.mount.kill_daemon()
    assert (made.path / "local").read_bytes() == b"local" * 1000
    with pytest.raises(OSError) as caught:  # noqa: PT011
        bounded((made.path / "small").read_bytes)
    assert caught.value.errno == errno.EIO
