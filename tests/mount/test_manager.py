"""A service manager that keeps the FUSE descriptor, as systemd's descriptor store does."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.test_network import data, some_files
from tests.support.programs import COMMAND, SECONDS, first_line, mounted_at, processes_of, served, until
from voyfs.syscalls import MNT_DETACH, umount

MIB = 1 << 20


class Manager:
    """The manager's end: what it was told last, and the descriptor that it keeps."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept: int | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(os.fspath(path))
        self._socket.settimeout(SECONDS)

    def hear(self) -> dict[str, str]:
        """The next thing that it is told."""
        text, descriptors, _, _ = socket.recv_fds(self._socket, 4096, 4)
        said = dict(line.split("=", 1) for line in text.decode().splitlines())
        if said.get("FDSTORE") == "1":
            (self.kept,) = descriptors
        return said

    def close(self) -> None:
        self._socket.close()
        if self.kept is not None:
            os.close(self.kept)

    @contextmanager
    def started(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """A service with what is kept as its descriptor 3."""
        script = 'exec "$@"'
        if self.kept is not None:
            script = f'exec 3<&{self.kept}; export LISTEN_FDS=1 LISTEN_FDNAMES=voyfs LISTEN_PID=$$; exec "$@"'
        with subprocess.Popen(
            ["bash", "-c", script, "bash", *COMMAND, *map(str, arguments)],
            env={**os.environ, "NOTIFY_SOCKET": str(self.path)},
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[] if self.kept is None else [self.kept],
        ) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("daemon_too", [False, True])
def test_a_supervisor_that_is_started_again_goes_on_with_the_mount(
    tmp_path: Path, manager: Manager, daemon_too: bool
) -> None:
    some_files(tmp_path / "source")
    point, store = tmp_path / "mount", tmp_path / "store"
    point.mkdir()
    with served(tmp_path / "source") as server:
        command = ("mount", server.address, point, "--store", store, "--warm")
        try:
            with manager.started(*command) as first:
                assert first_line(first).startswith("mounted ")
                assert manager.hear() == {"FDSTORE": "1", "FDNAME": "voyfs"}
                assert manager.hear() == {"READY": "1"}
                # after one close the kernel knows that none needs an answer: there is a moment without a daemon
                assert (point / "local").read_bytes() == b"local" * 1000
                with (point / "big").open("rb") as big, (point / "dir" / "new").open("w+b") as new:
                    assert big.read(10) == data(12 * MIB)[:10]
                    os.unlink(new.name)
                    new.write(b"has no name")
                    new.flush()
                    first.send_signal(signal.SIGSTOP)  # so that it starts no other daemon
                    if daemon_too:
                        for pid in processes_of(store):
                            if pid != first.pid:
                                os.kill(pid, signal.SIGKILL)
                    first.kill()
                    first.wait(SECONDS)
                    with manager.started(*command) as second:
                        assert first_line(second).startswith("mounted ")
                        assert manager.hear() == {"READY": "1"}
                        assert big.read() == data(12 * MIB)[10:]
                        new.seek(0)
                        assert new.read() == b"has no name"
                        assert mounted_at(point) == 1
                        big.close()
                        new.close()
                        umount(os.fsencode(point), 0)
                        assert second.wait(SECONDS) == 0
                        assert manager.hear() == {"STOPPING": "1", "FDSTOREREMOVE": "1", "FDNAME": "voyfs"}
            # what is kept of a mount that is gone is no mount
            with manager.started(*command) as third:
                assert first_line(third).startswith("mounted ")
                assert (point / "small").read_bytes() == b"small"
        finally:
            while mounted_at(point):
                umount(os.fsencode(point), MNT_DETACH)
            until(lambda: not processes_of(store))


def test_without_a_manager_nothing_is_said(tmp_path: Path) -> None:
    """And one that is gone ends nothing."""
    code = "import os; from voyfs.notify import Manager; m = Manager(os.environ); m.keep(0); m.ready(); print(m.kept())"
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none"), "LISTEN_FDS": "1", "LISTEN_PID": "1"}):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == ("None\n", "")
