"""voyfs of an ordinary user: serving, mounting through fusermount3, killing, leaving; only the set-up is root's."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.rpc.support import in_mount_namespace, mount
from tests.support.programs import COMMAND, SECONDS, first_line, in_child
from tests.support.trees import ACCESS_ACL
from voyfs.syscalls import MNT_DETACH, umount

UID = 65534  # nobody's: fusermount3 wants a user with a name
PROJECT = Path(__file__).parents[2]
AS_USER: dict[str, Any] = {"user": UID, "group": UID, "extra_groups": []}
CONTENT = bytes(range(256)) * 2000


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that an ordinary user can reach, and owns."""
    base = Path(tempfile.mkdtemp(dir="/tmp", prefix="voyfs-user-"))
    base.chmod(0o755)
    try:
        source = base / "source"
        (source / "closed").mkdir(parents=True)
        (source / "big").write_bytes(CONTENT)
        (source / "readonly").write_bytes(b"read only")
        (source / "readonly").chmod(0o444)
        (source / "closed" / "f").write_bytes(b"f")
        (source / "closed").chmod(0o555)
        (source / "link").symlink_to("big")
        os.mkfifo(source / "fifo")
        os.setxattr(source / "big", "user.text", b"kept")
        for path in (source, *source.rglob("*")):
            os.chown(path, UID, UID, follow_symlinks=False)
        os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        (source / "roots").write_bytes(b"another's")
        os.setxattr(source / "roots", "system.posix_acl_access", ACCESS_ACL)
        (source / "roots").chmod(0o644)
        for name in ("mount", "run"):
            (base / name).mkdir()
            os.chown(base / name, UID, UID)
        yield base
    finally:
        for point in (base / "mount",):
            while os.path.ismount(point):
                umount(os.fsencode(point), MNT_DETACH)
        shutil.rmtree(base, ignore_errors=True)


def _open_ways(home: Path) -> None:
    """In a mount namespace of its own: what a desktop gives its users and a bare machine may not.

    /dev/fuse is open to all, and no closed directory (as /root is) is above this project and its interpreter.
    """
    os.mknod(home / "fuse", stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    (home / "fuse").chmod(0o666)
    mount(os.fsencode(home / "fuse"), b"/dev/fuse", None, 0x1000)  # MS_BIND
    needed = {PROJECT, Path(os.path.realpath(sys.executable)).parents[1], Path(sys.prefix)}
    closed = {ancestor for path in needed for ancestor in path.parents if not ancestor.stat().st_mode & stat.S_IXOTH}
    handles = {path: os.open(path, os.O_PATH) for path in sorted(needed)}
    for ancestor in sorted(closed):
        if not any(other in ancestor.parents for other in closed):
            mount(b"none", os.fsencode(ancestor), b"tmpfs", 0, b"mode=755")
    for path, handle in handles.items():
        if any(ancestor in path.parents for ancestor in closed) and not path.exists():
            path.mkdir(parents=True)
            mount(b"/proc/self/fd/%d" % handle, os.fsencode(path), None, 0x1000 | 0x4000)  # MS_BIND | MS_REC
        os.close(handle)


def _run(home: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=SECONDS, check=False, cwd=home / "run", env=_ENV, **AS_USER
    )


_ENV = {**os.environ, "HOME": "/nonexistent", "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}


def _use(directory: Path, code: str) -> Any:
    """What `code` gives to the user's own program in `directory`."""
    return in_child(f"os.chdir({str(directory)!r})\n" + code, Path("/"), uid=UID, gid=UID)


def test_an_ordinary_user_serves_mounts_and_leaves(home: Path) -> None:
    in_mount_namespace(lambda: _life(home))


def _life(home: Path) -> None:
    _open_ways(home)
    point, store = home / "mount", home / "run" / "store"
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str | Path) -> str:
        with (home / "log").open("ab") as log:
            process = subprocess.Popen(
                [*COMMAND, *map(str, arguments)],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=home / "run",
                env=_ENV,
                **AS_USER,
            )
        processes.append(process)
        line = first_line(process)
        assert line, (home / "log").read_text()
        return line

    try:
        address = start("serve", home / "source", "--listen", "127.0.0.1:0").rpartition(" on ")[2]
        assert start("mount", address, point, "--store", store, "--warm").startswith("mounted ")
        _check(point, store)
        status = json.loads(_run(home, "status", "--json", point).stdout)
        os.kill(status["pid"], signal.SIGKILL)
        # the largest write that may have to be sent again, and all else, go on with the next daemon
        assert _use(point, "f = open('big', 'r+b'); f.write(b'w' * 300000); f.flush(); result = f.tell()") == 300_000
        assert _run(home, "upgrade", point).returncode == 0
        done = _run(home, "hydrate", "--wait", point)
        assert done.returncode == 0, done.stderr
        verified = _run(home, "verify", "--json", point)
        report = json.loads(verified.stdout)
        assert (report["differences"], report["left_out"], verified.returncode) == ([], 1, 0)
        assert _run(home, "detach", point).returncode == 0
        assert _run(home, "unmount", point).returncode == 0
        assert processes.pop().wait(SECONDS) == 0
        assert (store / "data" / "big").read_bytes() == b"w" * 300_000 + CONTENT[300_000:]
        assert {path.stat().st_uid for path in (store / "data").rglob("*") if not path.is_symlink()} == {UID}
        # off loopback as for everybody
        assert _run(home, "mount", "192.0.2.1:1", point, "--store", home / "run" / "other").returncode == 13
        foreign = _run(home, "mount", address, "/", "--store", home / "run" / "other")
        assert foreign.returncode == 10, foreign.stderr
    finally:
        while os.path.ismount(point):
            umount(os.fsencode(point), MNT_DETACH)
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)


def _check(point: Path, store: Path) -> None:
    assert _use(point, "result = sorted(os.listdir('.'))") == ["big", "closed", "fifo", "link", "readonly", "roots"]
    assert _use(point, "result = open('closed/f').read()") == "f"
    # all is the user's, who can always read and write it
    assert _use(point, "result = [os.stat(n).st_uid for n in ('roots', 'big', '.')]") == [UID] * 3
    assert _use(point, "result = [oct(os.stat(n).st_mode) for n in ('readonly', 'closed')]") == ["0o100644", "0o40755"]
    assert _use(
        point, "open('closed/new', 'w').write('n'); os.chmod('big', 0o400); result = oct(os.stat('big').st_mode)"
    ) == ("0o100600")
    assert _use(point, "result = oct(os.stat('closed/new').st_mode)") == "0o100644"
    assert _use(
        point, "os.umask(0o777); os.mkdir('m'); os.rmdir('m'); open('u', 'w'); result = oct(os.stat('u').st_mode)"
    ) == ("0o100600")
    assert _use(point, "result = os.getxattr('big', 'user.text').decode()") == "kept"
    for code, number in (
        ("os.mknod('dev', 0o20600, 259)", errno.EPERM),
        ("os.chown('big', 0, 0)", errno.EPERM),
        ("os.setxattr('big', 'trusted.a', b'')", errno.EPERM),
        (f"os.setxattr('big', 'system.posix_acl_access', {ACCESS_ACL!r})", errno.EOPNOTSUPP),
    ):
        assert _use(point, code) == -number, code
    # and nobody else's, not even root's
    with pytest.raises(PermissionError):
        os.listdir(point)
    stranger = f"import socket; socket.socket(socket.AF_UNIX).connect({str(store / 'control.sock')!r})"
    assert in_child(stranger, Path("/"), uid=UID + 1, gid=UID + 1) == -errno.EACCES


def test_without_the_helper_it_says_what_to_install(home: Path) -> None:
    def attempt() -> None:
        _open_ways(home)
        empty = home / "run" / "empty"
        empty.mkdir()
        code = (
            "import os; os.environ['PATH'] = '/nonexistent'; from pathlib import Path;"
            "from voyfs.handshake import open_and_mount;"
            f"open_and_mount(Path('/s'), Path({str(home / 'mount')!r}))"
        )
        done = subprocess.run(
            [COMMAND[0], "-c", code], capture_output=True, text=True, check=False, cwd="/", env=_ENV, **AS_USER
        )
        assert "fusermount3 is missing; install fuse3, or run as root" in done.stderr

    in_mount_namespace(attempt)
