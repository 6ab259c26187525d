"""Operations that random workloads do not reach, each against what ext4 does.

All on one mount; each test works in a directory of its own, on files of the source where that
matters (they are absent until the test, or the background, brings them).
"""

import array
import ctypes
import errno
import fcntl
import mmap
import os
import select
import shutil
import socket
import stat
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.conftest import MakePair
from tests.support.programs import Pair, exported, first_line, in_child
from tests.support.trees import ACCESS_ACL, CAPABILITY, DEFAULT_ACL, make_tree

MANY = 3000
CONTENT = bytes(range(256)) * 1000
_libc = ctypes.CDLL(None, use_errno=True)


def _prepare(source: Path) -> None:
    source.mkdir()
    (source / "many").mkdir()
    for number in range(MANY):
        (source / "many" / f"{number:05}").touch()
    (source / "files").mkdir()
    for name in ("a", "b", "c", "d"):
        (source / "files" / name).write_bytes(CONTENT)
    shutil.copy2(sys.executable, source / "files" / "python")
    shutil.copy2("/bin/true", source / "files" / "true")
    (source / "script").write_text("#!/bin/sh\necho from the mount\n")
    (source / "script").chmod(0o755)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    base = tmp_path_factory.mktemp("posix")
    _prepare(base / "source")
    with exported(base, "--warm") as pair:
        yield pair


@pytest.fixture
def here(made: Pair, request: pytest.FixtureRequest) -> Path:
    path = made.path / request.node.name
    path.mkdir()
    return path


# -- programs -------------------------------------------------------------------------------


def test_programs_and_scripts_run_from_the_mount(made: Pair) -> None:
    assert subprocess.run([made.path / "files" / "true"], check=False).returncode == 0
    done = subprocess.run([made.path / "script"], capture_output=True, text=True, check=True)
    assert done.stdout == "from the mount\n"


def test_a_running_program_cannot_be_written_to(made: Pair, here: Path) -> None:
    shutil.copy2("/bin/cat", here / "cat")
    with subprocess.Popen([here / "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(b"x")
        running.stdin.flush()
        running.stdout.read(1)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            os.open(here / "cat", os.O_WRONLY)
        running.stdin.close()
    assert caught.value.errno == errno.ETXTBSY


# -- locks, events --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flock", "lockf"])
def test_locks_hold_between_processes(here: Path, kind: str) -> None:
    path = here / "lock"
    path.touch()
    code = f"""
import fcntl
file = open("lock", "r+b")
fcntl.{kind}(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
result = 0
"""
    with path.open("r+b") as file:
        getattr(fcntl, kind)(file, fcntl.LOCK_EX)
        assert in_child(code, path.parent) == -errno.EAGAIN
        getattr(fcntl, kind)(file, fcntl.LOCK_UN)
        assert in_child(code, path.parent) == 0


def test_inotify_tells_of_changes(here: Path) -> None:
    descriptor = _libc.inotify_init1(os.O_NONBLOCK)
    try:
        create, modify, delete = 0x100, 0x2, 0x200
        assert _libc.inotify_add_watch(descriptor, os.fsencode(here), create | modify | delete) >= 0
        (here / "f").write_bytes(b"x")
        (here / "f").unlink()
        assert select.select([descriptor], [], [], 5)[0]
        events = os.read(descriptor, 4096)
        seen = []
        while events:
            _, mask, _, length = struct.unpack_from("iIII", events)
            seen.append((mask, events[16 : 16 + length].rstrip(b"\0")))
            events = events[16 + length :]
        assert seen == [(create, b"f"), (modify, b"f"), (delete, b"f")]
    finally:
        os.close(descriptor)


# -- names and paths ------------------------------------------------------------------------


def test_names_of_255_bytes_and_no_more(here: Path) -> None:
    longest = here / ("n" * 255)
    longest.write_bytes(b"long")
    assert longest.read_bytes() == b"long"
    os.rename(longest, here / ("m" * 255))
    for call in (lambda p: os.mkdir(p), lambda p: os.stat(p), lambda p: os.symlink("x", p), lambda p: os.open(p, 0)):
        with pytest.raises(OSError) as caught:  # noqa: PT011
            call(here / ("n" * 256))
        assert caught.value.errno == errno.ENAMETOOLONG


def test_paths_deeper_than_path_max(here: Path) -> None:
    before = os.open(".", os.O_RDONLY)
    try:
        os.chdir(here)
        for _ in range(40):
            os.mkdir("d" * 200)
            os.chdir("d" * 200)
        Path("leaf").write_bytes(b"deep")
        assert Path("leaf").read_bytes() == b"deep"
        assert os.stat("..").st_nlink == 3
        os.rename("leaf", "../leaf")
        os.unlink("../leaf")
    finally:
        os.fchdir(before)
        os.close(before)


def test_dot_and_dot_dot(made: Pair, here: Path) -> None:
    (here / "d").mkdir()
    inode = os.stat(here).st_ino
    assert os.stat(here / "d" / "..").st_ino == inode
    with os.scandir(here / "d") as entries:
        assert list(entries) == []
    descriptor = os.open(here / "d", os.O_RDONLY)
    try:
        listed = dict(_getdents(descriptor))
        assert listed[b"."] == os.stat(here / "d").st_ino
        assert listed[b".."] == inode
    finally:
        os.close(descriptor)


# -- listing --------------------------------------------------------------------------------


def _getdents(descriptor: int, size: int = 32768) -> Iterator[tuple[bytes, int]]:
    """(name, inode) of one call after the other, as readdir(3) reads them."""
    buffer = array.array("b", bytes(size))
    while count := _libc.syscall(217, descriptor, ctypes.c_void_p(buffer.buffer_info()[0]), size):
        assert count > 0, os.strerror(ctypes.get_errno())
        raw, at = buffer.tobytes()[:count], 0
        while at < count:
            inode, _, length, _ = struct.unpack_from("<QqHB", raw, at)
            yield raw[at + 19 : at + length].partition(b"\0")[0], inode
            at += length


def test_entries_that_stay_are_listed_once_while_others_come_and_go(made: Pair, tmp_path: Path) -> None:
    directory = made.path / "many"
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        listed = []
        for number, (name, _) in enumerate(_getdents(descriptor, 1024)):
            listed.append(name)
            if number % 10 == 0:
                (directory / f"new{number}").touch()
                stale = directory / f"{number:05}"
                if number % 20 == 0 and os.fsencode(stale.name) not in listed:
                    stale.unlink()
        stay = {os.fsencode(f"{number:05}") for number in range(MANY) if number % 20}
        assert len(listed) == len(set(listed))
        assert stay <= set(listed)
        os.lseek(descriptor, 0, os.SEEK_SET)
        assert {name for name, _ in _getdents(descriptor)} - {b".", b".."} == set(
            map(os.fsencode, os.listdir(directory))
        )
    finally:
        os.close(descriptor)


def test_telldir_and_seekdir_come_back_to_the_same_place(here: Path) -> None:
    for number in range(300):
        (here / str(number)).touch()
    _libc.opendir.restype = _libc.readdir.restype = ctypes.c_void_p
    _libc.telldir.restype = ctypes.c_long

    def name(stream: ctypes.c_void_p) -> bytes:
        found = _libc.readdir(stream)
        return ctypes.string_at(found + 19) if found else b""

    stream = ctypes.c_void_p(_libc.opendir(os.fsencode(here)))
    try:
        order, places = [], []
        while True:
            places.append(_libc.telldir(stream))
            if not (found := name(stream)):
                break
            order.append(found)
        assert len(order) == 302
        for position in (250, 3, 100, 0, 301):
            _libc.seekdir(stream, ctypes.c_long(places[position]))
            assert name(stream) == order[position]
        (here / os.fsdecode(order[50])).unlink()
        _libc.seekdir(stream, ctypes.c_long(places[49]))
        assert name(stream) == order[49]
    finally:
        _libc.closedir(stream)


# -- bytes ----------------------------------------------------------------------------------


def test_offsets_beyond_4_gib_and_the_end_of_all_files(here: Path) -> None:
    with (here / "big").open("w+b") as file:
        for offset in (2**32 - 1, 2**32 * 3 + 7, 2**43):
            assert os.pwrite(file.fileno(), b"mark", offset) == 4
            assert os.pread(file.fileno(), 6, offset - 1) == b"\0mark"
        assert os.fstat(file.fileno()).st_blocks < 100
        with pytest.raises(OSError) as caught:  # noqa: PT011
            os.pwrite(file.fileno(), b"x", 2**62)
        assert caught.value.errno in (errno.EFBIG, errno.EINVAL)
        with pytest.raises(OSError) as caught:  # noqa: PT011
            os.truncate(file.fileno(), 2**62)
        assert caught.value.errno in (errno.EFBIG, errno.EINVAL)
        os.truncate(file.fileno(), 0)


def test_two_appenders_lose_nothing(here: Path) -> None:
    path = here / "log"
    path.touch()
    code = """
file = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range(200):
    os.write(file, b"%s %03d\\n" % (sys.argv[2].encode(), number))
"""
    program = [sys.executable, "-c", "import os, sys" + code]
    writers = [subprocess.Popen([*program, str(path), name]) for name in ("x", "y")]
    for writer in writers:
        assert writer.wait(60) == 0
    lines = path.read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} {number:03}" for name in "xy" for number in range(200))


def test_shared_mappings_of_two_processes_see_each_other(made: Pair) -> None:
    path = made.path / "files" / "a"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
        code = """
import mmap
file = open("a", "r+b")
view = mmap.mmap(file.fileno(), 0)
view[200000:200005] = b"child"
view.flush()
result = view[5:10].decode()
"""
        view[5:10] = b"paren"
        assert in_child(code, path.parent) == "paren"
        assert view[200000:200005] == b"child"
    assert path.read_bytes() == CONTENT[:5] + b"paren" + CONTENT[10:200000] + b"child" + CONTENT[200005:]


def test_a_private_mapping_changes_nothing(made: Pair) -> None:
    path = made.path / "files" / "b"
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        view[100_000:100_010] = b"0123456789"
        assert path.read_bytes() == CONTENT


def test_direct_io_is_as_right_as_the_cached(made: Pair) -> None:
    descriptor = os.open(made.path / "files" / "c", os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 8192) as page:
            assert os.preadv(descriptor, [page], 4096 * 16) == 8192
            assert page[:] == CONTENT[65536 : 65536 + 8192]
            page[:] = b"d" * 8192
            assert os.pwritev(descriptor, [page], 4096 * 17) == 8192
    finally:
        os.close(descriptor)
    expected = CONTENT[: 4096 * 17] + b"d" * 8192 + CONTENT[4096 * 19 :]
    assert (made.path / "files" / "c").read_bytes() == expected


def test_a_file_may_be_used_on_after_it_was_removed(made: Pair) -> None:
    path = made.path / "files" / "d"
    with path.open("r+b") as file:
        path.unlink()
        assert os.fstat(file.fileno()).st_nlink == 0
        assert file.read() == CONTENT
        file.seek(0)
        file.write(b"still")
        file.flush()
        again = Path(f"/proc/self/fd/{file.fileno()}")
        assert again.read_bytes() == b"still" + CONTENT[5:]
        linked = _libc.linkat(-100, os.fsencode(again), -100, os.fsencode(made.path / "files" / "e"), 0x400)
        assert (linked, ctypes.get_errno()) == (-1, errno.ENOENT)


def test_posix_fallocate_gives_the_space(here: Path) -> None:
    with (here / "f").open("w+b") as file:
        os.posix_fallocate(file.fileno(), 0, 300_000)
        assert os.fstat(file.fileno()).st_size == 300_000
        assert os.pread(file.fileno(), 10, 299_000) == bytes(10)


def test_statfs_is_that_of_the_store(made: Pair) -> None:
    mount, store = os.statvfs(made.path), os.statvfs(made.mount.store)
    assert mount.f_blocks == store.f_blocks
    assert mount.f_bsize == store.f_bsize
    assert mount.f_namemax == 255
    assert abs(mount.f_bavail - store.f_bavail) * store.f_frsize < 1 << 30


# -- times ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ns", [-(10**18) - 1, -1, 0, 999_999_999, 2**31 * 10**9 + 1, 15 * 10**18 // 10 + 3])
def test_times_before_1970_and_after_2038(here: Path, ns: int) -> None:
    (here / "f").touch()
    for entry in (here / "f", here):
        os.utime(entry, ns=(ns, ns))
        seen = os.stat(entry)
        assert (seen.st_atime_ns, seen.st_mtime_ns) == (ns, ns)


def test_what_changes_which_time(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"x")
    old = 10**18

    def changed() -> tuple[bool, bool, bool]:
        seen = os.stat(path)
        where = os.stat(here)
        return seen.st_mtime_ns != old, seen.st_ctime_ns != before.st_ctime_ns, where.st_mtime_ns != old

    for what, expected in (
        (lambda: path.write_bytes(b"y"), (True, True, False)),
        (lambda: path.chmod(0o600), (False, True, False)),
        (lambda: os.setxattr(path, "user.a", b"1"), (False, True, False)),
        (lambda: os.chown(path, -1, -1), (False, True, False)),
        (lambda: os.link(path, here / "g"), (False, True, True)),
        (lambda: os.unlink(here / "g"), (False, True, True)),
        (lambda: os.truncate(path, 1), (True, True, False)),
        (lambda: os.rename(path, here / "h") or os.rename(here / "h", path), (False, True, True)),
        (lambda: path.read_bytes(), (False, False, False)),
    ):
        os.utime(path, ns=(old, old))
        os.utime(here, ns=(old, old))
        before = os.stat(path)
        while _clock() <= before.st_ctime_ns:
            pass  # file times move in ticks
        what()
        assert changed() == expected


def _clock() -> int:
    """The file system's clock, which is coarser than the processor's."""
    descriptor = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR)
    try:
        return os.fstat(descriptor).st_ctime_ns
    finally:
        os.close(descriptor)


# -- who may do what ------------------------------------------------------------------------

USER, GROUP = 1234, 1234


def test_permissions_are_checked_for_other_users(here: Path) -> None:
    (here / "secret").write_bytes(b"s")
    (here / "secret").chmod(0o600)
    (here / "closed").mkdir(mode=0o700)
    (here / "open").mkdir()
    (here / "open").chmod(0o777)
    (here / "closed" / "f").touch()
    (here / "readonly").write_bytes(b"r")
    (here / "readonly").chmod(0o644)
    here.chmod(0o755)
    for code, expected in (
        ("open('secret')", -errno.EACCES),
        ("os.stat('closed/f')", -errno.EACCES),
        ("os.listdir('closed')", -errno.EACCES),
        ("result = open('readonly').read()", "r"),
        ("open('readonly', 'a')", -errno.EACCES),
        ("os.truncate('readonly', 0)", -errno.EACCES),
        ("os.mkdir('new')", -errno.EACCES),
        ("os.unlink('readonly')", -errno.EACCES),
        ("os.rename('readonly', 'x')", -errno.EACCES),
        ("os.chmod('readonly', 0o777)", -errno.EPERM),
        ("os.chown('readonly', 1234, 1234)", -errno.EPERM),
        ("os.utime('readonly', (1, 1))", -errno.EPERM),
        ("os.setxattr('readonly', 'user.a', b'')", -errno.EACCES),
        ("os.setxattr('readonly', 'trusted.a', b'')", -errno.EPERM),
        ("os.mknod('open/dev', 0o20600, 259)", -errno.EPERM),
    ):
        assert in_child(code, here, uid=USER, gid=GROUP) == expected, code


def test_new_entries_belong_to_who_makes_them(here: Path) -> None:
    here.chmod(0o777)
    code = """
os.umask(0o027)
open("f", "w").close()
os.mkdir("d")
os.symlink("f", "l")
os.mkfifo("p")
os.link("f", "h")
result = [[os.lstat(n).st_uid, os.lstat(n).st_gid, oct(os.lstat(n).st_mode)] for n in "fdlph"]
"""
    assert in_child(code, here, uid=USER, gid=GROUP) == [
        [USER, GROUP, "0o100640"],
        [USER, GROUP, "0o40750"],
        [USER, GROUP, "0o120777"],
        [USER, GROUP, "0o10640"],
        [USER, GROUP, "0o100640"],
    ]


def test_a_setgid_directory_gives_its_group(here: Path) -> None:
    os.chown(here, 0, 77)
    here.chmod(0o2777)
    code = """
open("f", "w").close()
os.mkdir("d")
os.close(os.open("s", os.O_CREAT | os.O_WRONLY, 0o2777))
result = [[os.stat(n).st_gid, oct(os.stat(n).st_mode)] for n in "fds"]
"""
    assert in_child(code, here, uid=USER, gid=GROUP) == [[77, "0o100644"], [77, "0o42755"], [77, "0o100755"]]


def test_a_sticky_directory_protects_what_belongs_to_others(here: Path) -> None:
    here.chmod(0o1777)
    for name in ("mine", "other"):
        (here / name).touch()
        (here / name).chmod(0o666)
    os.chown(here / "mine", USER, GROUP)
    for code, expected in (
        ("os.unlink('other')", -errno.EPERM),
        ("os.rename('other', 'x')", -errno.EPERM),
        ("os.rename('mine', 'other')", -errno.EPERM),
        ("os.rename('mine', 'x'); os.unlink('x')", None),
    ):
        assert in_child(code, here, uid=USER, gid=GROUP) == expected, code


def test_a_default_acl_overrides_the_umask(here: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    code = """
os.umask(0o077)
os.close(os.open("f", os.O_CREAT | os.O_WRONLY, 0o666))
os.mkdir("d", 0o777)
os.mkfifo("p", 0o666)
result = [[oct(os.stat(n).st_mode), sorted([x, os.getxattr(n, x).hex()] for x in os.listxattr(n))] for n in "fdp"]
"""
    for directory in (here, plain):
        directory.chmod(0o777)
        os.setxattr(directory, "system.posix_acl_default", DEFAULT_ACL)
    assert in_child(code, here) == in_child(code, plain)


def test_an_acl_lets_in_whom_it_names(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"x")
    path.chmod(0o600)
    code = "result = open('f').read()"
    assert in_child(code, here, uid=USER, gid=GROUP) == -errno.EACCES
    os.setxattr(path, "system.posix_acl_access", ACCESS_ACL)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
    assert in_child(code, here, uid=USER, gid=GROUP) == "x"
    assert in_child(code, here, uid=USER + 1, gid=GROUP + 1) == -errno.EACCES


def test_special_bits_go_with_a_write_and_a_chown(here: Path) -> None:
    path = here / "f"
    here.chmod(0o777)

    def prepare(mode: int) -> None:
        path.write_bytes(b"x")
        os.chown(path, USER, GROUP)
        path.chmod(mode)

    write = "open('f', 'r+').write('y')"
    cut = "os.truncate('f', 0)"
    chown = "os.chown('f', -1, 1234)"
    for code in (write, cut, chown):
        prepare(0o6777)
        in_child(code, here, uid=USER, gid=GROUP)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o777, code
    prepare(0o6777)
    os.chown(path, 1, 1)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o777


def test_special_bits_stay_when_root_writes_to_a_file_with_a_capability(here: Path) -> None:
    path = here / "f"
    path.write_bytes(b"x")
    path.chmod(0o4755)
    os.setxattr(path, "security.capability", CAPABILITY)
    before = os.stat(path).st_ctime_ns
    with path.open("r+b") as file:
        file.write(b"y")
    assert "security.capability" not in os.listxattr(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o4755
    assert os.stat(path).st_ctime_ns > before


def test_a_capability_goes_with_a_cut_and_verify_knows_why(pair: MakePair) -> None:
    made = pair(prepare=make_tree)
    capable = made.path / "bin" / "capable"
    descriptor = os.open(capable, os.O_RDWR | os.O_TRUNC)
    os.write(descriptor, b"x")
    os.close(descriptor)
    assert os.listxattr(capable) == []
    made.mount.hydrate()
    assert made.mount.ask("verify")["report"]["differences"] == []


# -- attributes -----------------------------------------------------------------------------


def test_xattr_sizes_and_flags(here: Path, tmp_path: Path) -> None:
    def results(path: Path) -> list[object]:
        path.touch()
        found: list[object] = []
        for call in (
            lambda: os.setxattr(path, "user.a", b"1", os.XATTR_REPLACE),
            lambda: os.setxattr(path, "user.a", b"1", os.XATTR_CREATE),
            lambda: os.setxattr(path, "user.a", b"2", os.XATTR_CREATE),
            lambda: os.getxattr(path, "user.a"),
            lambda: os.setxattr(path, "user." + "n" * 250, b""),
            lambda: os.setxattr(path, "user." + "n" * 251, b""),
            lambda: os.setxattr(path, "user.big", b"v" * 3000),
            lambda: os.setxattr(path, "user.huge", b"v" * 60_000),
            lambda: os.getxattr(path, "user.none"),
            lambda: os.removexattr(path, "user.none"),
            lambda: sorted(os.listxattr(path)),
        ):
            try:
                found.append(call())
            except OSError as error:
                found.append(error.errno)
        return found

    assert results(here / "f") == results(tmp_path / "f")


def test_special_files_work(here: Path) -> None:
    os.mkfifo(here / "fifo")
    reader = subprocess.Popen(
        [sys.executable, "-c", "import sys; print(open(sys.argv[1]).read())", here / "fifo"],
        stdout=subprocess.PIPE,
        text=True,
    )
    (here / "fifo").write_text("through")
    assert first_line(reader) == "through"
    assert reader.wait(10) == 0
    assert reader.stdout is not None
    reader.stdout.close()
    os.mknod(here / "zero", stat.S_IFCHR | 0o666, os.makedev(1, 5))
    with (here / "zero").open("rb") as zero:
        assert zero.read(5) == bytes(5)


def test_a_socket_listens(here: Path) -> None:
    before = os.getcwd()
    os.chdir(here)
    try:
        with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as caller:
            listener.bind("s")
            listener.listen()
            caller.connect("s")
            listener.accept()[0].close()
        assert stat.S_ISSOCK(os.stat("s").st_mode)
    finally:
        os.chdir(before)


def test_a_descriptor_is_not_held_for_each_file(made: Pair, here: Path) -> None:
    for number in range(600):
        (here / str(number)).write_bytes(b"x")
        (here / f"d{number}").mkdir()
        (here / f"d{number}" / "f").touch()
    for number in range(600):
        assert (here / str(number)).read_bytes() == b"x"
    assert len(os.listdir(f"/proc/{made.mount.daemon}/fd")) < 700


# -- what is not offered ----------------------------------------------------------------------


def test_what_is_not_offered_is_refused_as_the_document_says(made: Pair, here: Path) -> None:
    """docs/SEMANTICS.md: a program must see a refusal that it knows how to go on after, or what is right."""
    path = made.path / "files" / "true"
    content = path.read_bytes()
    (here / "g").touch()

    def fallocate(mode: int) -> None:
        length = ctypes.c_long(4096)
        if _libc.fallocate(target, mode, ctypes.c_long(0), length) != 0:
            raise OSError(ctypes.get_errno(), "fallocate")

    source, target = os.open(path, os.O_RDONLY), os.open(here / "g", os.O_RDWR)
    try:
        for call, number in (
            (lambda: fallocate(0), errno.EOPNOTSUPP),
            (lambda: fallocate(3), errno.EOPNOTSUPP),  # punch a hole
            (lambda: os.open(here, os.O_TMPFILE | os.O_RDWR, 0o600), errno.EOPNOTSUPP),
            (lambda: fcntl.ioctl(target, 0x40049409, source), errno.EOPNOTSUPP),  # FICLONE
            (lambda: fcntl.ioctl(source, 0x80086601, bytes(8)), errno.ENOTTY),  # FS_IOC_GETFLAGS
        ):
            with pytest.raises(OSError) as caught:  # noqa: PT011
                call()
            assert caught.value.errno == number
        assert os.lseek(source, 0, os.SEEK_DATA) == 0
        assert os.lseek(source, 0, os.SEEK_HOLE) == len(content)
        copied = 0
        while copied < len(content):
            copied += os.copy_file_range(source, target, len(content) - copied, copied, copied)
    finally:
        os.close(source)
        os.close(target)
    assert (here / "g").read_bytes() == content
