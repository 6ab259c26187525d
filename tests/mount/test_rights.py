"""Who may do what, against ext4: every call by every kind of user on every kind of entry, and the same results."""

import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.programs import SECONDS, Pair, exported

OWNER, MEMBER, STRANGER = (1001, 1001, []), (1002, 1002, [1001]), (1003, 1003, [])
USERS = {"owner": OWNER, "member": MEMBER, "stranger": STRANGER}
DIRECTORIES = (0o777, 0o1777, 0o2775, 0o500)
FILES = (0o644, 0o6777, 0o004)
MORE_DIRECTORIES = (*DIRECTORIES, 0o755, 0o300, 0o700)
MORE_FILES = (*FILES, 0o600, 0o4755, 0o2755, 0o044, 0o000)

# Run by each user in each directory, which holds the same entries; prints what came of each call.
PROGRAM = r"""
import errno, json, os, stat, sys
uid, gid, groups, places = json.loads(sys.argv[1])
bases = {place: os.open(place, os.O_PATH) for place in places}  # their parents need not let the user in
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
os.umask(0o022)

def shown(path):
    s = os.lstat(path)
    return [oct(s.st_mode), s.st_uid, s.st_gid, s.st_nlink]

def opened(flags, data=None):
    def call(path):
        fd = os.open(path, flags | os.O_NOFOLLOW, 0o6777)
        try:
            if data is None:
                return os.read(fd, 10).decode() if not flags & os.O_WRONLY else None
            return os.write(fd, data)
        finally:
            os.close(fd)
    return call

CALLS = {
    "read": opened(os.O_RDONLY), "write": opened(os.O_WRONLY, b"w"), "append": opened(os.O_WRONLY | os.O_APPEND, b"a"),
    "cut": opened(os.O_WRONLY | os.O_TRUNC, b"c"), "truncate": lambda p: os.truncate(p, 3),
    "exec": lambda p: os.access(p, os.X_OK), "stat": shown,
    "chmod": lambda p: os.chmod(p, 0o6755), "chown nothing": lambda p: os.chown(p, -1, -1),
    "chgrp": lambda p: os.chown(p, -1, 1001), "chown": lambda p: os.chown(p, 1003, -1),
    "utime now": lambda p: os.utime(p), "utime": lambda p: os.utime(p, (1, 2)),
    "setxattr": lambda p: os.setxattr(p, "user.a", b"1"), "getxattr": lambda p: os.getxattr(p, "user.text").decode(),
    "trusted": lambda p: os.setxattr(p, "trusted.a", b"1"),
    "acl": lambda p: os.setxattr(p, "system.posix_acl_access", bytes.fromhex(
        "0200000001000600ffffffff0200060 0eb03000004000400ffffffff10000600ffffffff20000400ffffffff".replace(" ", ""))),
    "link": lambda p: os.link(p, p + ".link"), "rename": lambda p: os.rename(p, p + ".new"),
    "rename over": lambda p: os.rename(p, p + ".other"), "unlink": os.unlink,
    "create": lambda p: (opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL, b"n")(p + ".n"), shown(p + ".n")),
    "mkdir": lambda p: (os.mkdir(p + ".d", 0o7777), shown(p + ".d")),
    "mkfifo": lambda p: (os.mkfifo(p + ".f", 0o7666), shown(p + ".f")),
    "mknod": lambda p: os.mknod(p + ".c", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
    "symlink": lambda p: (os.symlink("x", p + ".s"), shown(p + ".s")),
    "rmdir": lambda p: os.rmdir(p + ".empty"), "list": lambda p: len(os.listdir(os.path.dirname(p))),
}
results = {}
for place in places:
    os.fchdir(bases[place])
    for name, call in CALLS.items():
        try:
            outcome = call(f"{name}/f")
        except OSError as error:
            outcome = errno.errorcode[error.errno]
        results[f"{place}|{name}"] = outcome
print(json.dumps([results, list(CALLS)]))
"""


def _calls() -> list[str]:
    body = PROGRAM[PROGRAM.index("CALLS = {") : PROGRAM.index("results = {}")]
    names: list[str] = []
    scope: dict[str, object] = {"os": os, "stat": stat, "opened": lambda *_: None, "shown": None}
    exec(body, scope)
    calls = scope["CALLS"]
    assert isinstance(calls, dict)
    names.extend(calls)
    return names


def _make(root: Path, modes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """For each user, directory mode and file mode a place; in it a directory of that mode for each call."""
    root.mkdir()
    root.chmod(0o755)
    calls = _calls()
    for user, directory_mode, file_mode in itertools.product(USERS, *modes):
        place = root / f"{user}-{directory_mode:o}-{file_mode:o}"
        place.mkdir()
        for call in calls:
            directory = place / call
            (directory / "f.empty").mkdir(parents=True)
            for name in ("f", "f.other"):
                path = directory / name
                path.write_bytes(b"content")
                os.setxattr(path, "user.text", b"t")
                os.chown(path, *OWNER[:2])
                path.chmod(file_mode)
            os.chown(directory, 1004 if directory_mode & 0o1000 else 1001, 1001)
            directory.chmod(directory_mode)


def _after(root: Path) -> dict[str, tuple[object, ...]]:
    """What is there, as root sees it."""
    seen = {}
    for path in sorted(root.rglob("*")):
        status = os.lstat(path)
        xattrs = sorted(
            (name, os.getxattr(path, name, follow_symlinks=False)) for name in os.listxattr(path, follow_symlinks=False)
        )
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        seen[str(path.relative_to(root))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_nlink, content, xattrs),
            status.st_mtime if status.st_mtime < 10 else None,
        )
    return seen


def _act(root: Path) -> dict[str, object]:
    results = {}
    for user, (uid, gid, groups) in USERS.items():
        places = [str(place) for place in sorted(root.iterdir()) if place.name.startswith(f"{user}-")]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, json.dumps([uid, gid, groups, places])],
            capture_output=True,
            text=True,
            timeout=SECONDS * 3,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found, _ = json.loads(done.stdout)
        results.update({key.removeprefix(f"{root}/"): value for key, value in found.items()})
    return results


@pytest.fixture
def made(tmp_path: Path, torture: bool) -> Iterator[Pair]:
    modes = (MORE_DIRECTORIES, MORE_FILES) if torture else (DIRECTORIES, FILES)
    _make(tmp_path / "source", modes)
    _make(tmp_path / "plain", modes)
    with exported(tmp_path) as pair:
        yield pair


def test_everybody_may_do_on_the_mount_what_he_may_on_ext4(made: Pair, tmp_path: Path) -> None:
    here, there = _act(made.path), _act(tmp_path / "plain")
    assert len(here) % (len(USERS) * len(_calls())) == 0
    different = {key: (value, there[key]) for key, value in here.items() if value != there[key]}
    assert not different
    assert len({str(value) for value in here.values()}) > 20  # they tell something
    assert _after(made.path) == _after(tmp_path / "plain")
