"""The exported tree on a real file system: what is told, and what can never be reached."""

import ctypes
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rpc.support import in_mount_namespace, mount, open_descriptors
from voyfs.core.entry import Entry, Version
from voyfs.core.errors import ExportError
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK, ENTRY_XATTR_BYTES
from voyfs.rpc import openat, tree
from voyfs.rpc.pages import walk
from voyfs.rpc.reader import open_file
from voyfs.rpc.tree import Tree, TreeError, Trouble

SECRET = b"not to be seen"

# A version 2 file capability: cap_net_raw, effective and permitted (linux/capability.h).
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0)
# user::rwx, user:1000:r--, group::r-x, mask::r-x, other::--- (linux/posix_acl_xattr.h).
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, permissions, who)
    for tag, permissions, who in (
        (1, 7, 2**32 - 1),
        (2, 4, 1000),
        (4, 5, 2**32 - 1),
        (16, 5, 2**32 - 1),
        (32, 0, 2**32 - 1),
    )
)


@pytest.fixture
def export(tmp_path: Path) -> Path:
    path = tmp_path / "export"
    path.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_bytes(SECRET)
    (tmp_path / "secret").write_bytes(SECRET)
    return path


@pytest.fixture
def offered(export: Path) -> Iterator[Tree]:
    offered = Tree(str(export))
    yield offered
    offered.close()


def content(offered: Tree, path: bytes, version: Version | None = None) -> bytes:
    size = offered.stat(path).size
    with open_file(offered, path, version) as file:
        runs = file.runs(Extent(0, size)) if size else iter(())
        return b"".join(bytes(r.length) if r.data is None else r.data for r in runs)


def entries(offered: Tree, path: bytes) -> dict[bytes, Entry]:
    with offered.directory(path, 0) as (_, found):
        return {entry.name: entry for entry in found}


def trouble(action: object, *arguments: object) -> Trouble:
    assert callable(action)
    with pytest.raises(TreeError) as caught:
        action(*arguments)
    return caught.value.trouble


def test_an_export_must_be_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ExportError, match="not a directory"):
        Tree(str(tmp_path / "file"))
    with pytest.raises(ExportError, match="No such file"):
        Tree(str(tmp_path / "missing"))


def test_without_openat2_nothing_is_exported(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openat, "_OPENAT2", 100_000)  # a call that no kernel has
    with pytest.raises(ExportError, match=r"Linux 5\.6"):
        Tree(str(export))


def test_the_identity_is_that_of_the_tree(export: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(export)
    same = [Tree(str(export)), Tree(str(export) + "/"), Tree(str(tmp_path / "alias"))]
    other = Tree(str(tmp_path / "outside"))
    try:
        assert len({offered.export_id for offered in same}) == 1
        assert len(same[0].export_id) == 16
        assert other.export_id != same[0].export_id
    finally:
        for offered in (*same, other):
            offered.close()


def test_extended_attributes_are_told_whole(export: Path, offered: Tree) -> None:
    file = export / "file"
    file.write_bytes(b"")
    told = {
        b"security.capability": CAPABILITY,
        b"system.posix_acl_access": ACL,
        b"trusted.mine": b"",
        b"user.long": b"v" * 3000,
    }
    for name, value in told.items():
        os.setxattr(file, name, value)
    (export / "sym").symlink_to("nowhere")
    os.setxattr(export / "sym", b"trusted.of-the-link", b"1", follow_symlinks=False)
    found = entries(offered, b"")
    assert dict(found[b"file"].xattrs) == told
    assert dict(found[b"sym"].xattrs) == {b"trusted.of-the-link": b"1"}
    assert dict(offered.stat(b"file").xattrs) == told


def test_attributes_are_those_of_the_system(export: Path, offered: Tree) -> None:
    path = export / "file"
    path.write_bytes(b"12345")
    os.chown(path, 1234, 54321)
    path.chmod(0o6751)
    os.utime(path, ns=(-1_000_000_001, 5_000_000_000_123_456_789))
    status = path.stat()
    entry = entries(offered, b"")[b"file"]
    assert entry.mode == stat.S_IFREG | 0o6751
    assert (entry.uid, entry.gid, entry.nlink) == (1234, 54321, 1)
    assert entry.atime_ns == status.st_atime_ns == -1_000_000_001
    assert entry.version.mtime_ns == status.st_mtime_ns == 5_000_000_000_123_456_789
    assert (entry.device, entry.version.inode) == (status.st_dev, status.st_ino)
    assert entry.blocks == status.st_blocks


def test_a_socket_is_told_and_nothing_special_is_opened(export: Path, offered: Tree) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(export)  # names of sockets are short
        try:
            listener.bind("socket")
        finally:
            os.chdir(here)
        os.mkfifo(export / "fifo")
        os.mknod(export / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        assert stat.S_ISSOCK(entries(offered, b"")[b"socket"].mode)
        for name in (b"socket", b"fifo", b"null"):
            assert trouble(content, offered, name) is Trouble.CHANGED


def test_no_symbolic_link_is_followed(export: Path, offered: Tree, tmp_path: Path) -> None:
    (export / "inside").mkdir()
    (export / "inside" / "file").write_bytes(b"fine")
    (export / "absolute").symlink_to(tmp_path / "outside")
    (export / "relative").symlink_to("../outside")
    (export / "within").symlink_to("inside")
    (export / "last").symlink_to("../secret")
    for path in (b"absolute/secret", b"relative/secret", b"within/file"):
        assert trouble(content, offered, path) is Trouble.REFUSED
        assert trouble(offered.stat, path) is Trouble.REFUSED
    assert trouble(content, offered, b"last") is Trouble.CHANGED
    for path in (b"absolute", b"relative", b"within"):
        assert trouble(entries, offered, path) in (Trouble.REFUSED, Trouble.MISSING)
    # Even a path that the service should never let through stays below.
    for path in (b"../secret", b"inside/../../secret", os.fsencode(tmp_path / "secret")):
        assert trouble(offered.stat, path) is Trouble.REFUSED
    assert trouble(offered.stat, b"inside\0/../..") is Trouble.REFUSED
    assert content(offered, b"inside/file") == b"fine"


def test_a_directory_swapped_for_a_link_leads_nowhere(export: Path, offered: Tree, tmp_path: Path) -> None:
    (export / "dir").mkdir()
    (export / "dir" / "secret").write_bytes(b"harmless")
    (export / "link").symlink_to(tmp_path / "outside")
    over = threading.Event()
    exchange = ctypes.CDLL(None, use_errno=True).renameat2

    def swap() -> None:
        one, other = os.fsencode(export / "dir"), os.fsencode(export / "link")
        while not over.is_set():
            exchange(-100, one, -100, other, 2)  # RENAME_EXCHANGE

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for _ in range(2000):
            try:
                outcomes.add(content(offered, b"dir/secret"))
            except TreeError as error:
                outcomes.add(error.trouble.value.encode())
            try:
                outcomes.update(entries(offered, b"dir"))
            except TreeError:
                pass
            for page in walk(offered, b"", 0):
                assert page.path in (b"", b"dir", b"link")
    finally:
        over.set()
        swapper.join()
    assert SECRET not in outcomes
    assert b"harmless" in outcomes


def test_paths_longer_than_the_kernels_are_opened(export: Path, offered: Tree) -> None:
    name = b"d" * 200
    path = b""
    parent = os.open(export, os.O_RDONLY)
    try:
        for _ in range(60):
            os.mkdir(name, dir_fd=parent)
            child = os.open(name, os.O_RDONLY, dir_fd=parent)
            os.close(parent)
            parent = child
            path = path + b"/" + name if path else name
        with open(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=parent), "wb") as file:
            file.write(b"deep")
    finally:
        os.close(parent)
    assert len(path) > 2 * 4096
    assert list(entries(offered, path)) == [b"file"]
    assert content(offered, path + b"/file") == b"deep"
    assert sum(1 for _ in walk(offered, b"", 0)) == 61


def test_other_mounts_are_not_crossed(export: Path) -> None:
    for name in ("mounted", "bound", "plain", "mounted/beneath"):
        (export / name).mkdir()
    (export / "file").write_bytes(b"our own")
    beneath = (export / "mounted").stat().st_ino

    def look() -> None:
        mount(b"none", os.fsencode(export / "mounted"), b"tmpfs", 0, b"mode=1770,uid=7")
        (export / "mounted" / "foreign").mkdir()
        (export / "mounted" / "foreign" / "secret").write_bytes(SECRET)
        # The same file system by another way: the device number alone would not tell.
        mount(os.fsencode(export.parent / "outside"), os.fsencode(export / "bound"), None, 4096)
        mount(os.fsencode(export.parent / "secret"), os.fsencode(export / "file"), None, 4096)
        offered = Tree(str(export))
        try:
            found = entries(offered, b"")
            assert sorted(found) == [b"bound", b"mounted", b"plain"]
            entry = found[b"mounted"]
            assert (stat.S_IMODE(entry.mode), entry.uid) == (0o1770, 7)
            assert entry.version.inode == beneath
            assert entry.device == export.stat().st_dev
            with offered.directory(b"mounted", beneath) as (inode, inside):
                assert (inode, list(inside)) == (beneath, [])
            assert entries(offered, b"bound") == {}
            assert offered.stat(b"mounted").version == entry.version
            for path in (b"mounted/foreign", b"mounted/foreign/secret", b"bound/secret"):
                assert trouble(offered.stat, path) is Trouble.REFUSED
            assert trouble(content, offered, b"bound/secret") is Trouble.REFUSED
            assert trouble(offered.stat, b"file") is Trouble.MISSING
            assert trouble(entries, offered, b"file") is Trouble.REFUSED
            with pytest.raises(TreeError), offered.directory(b"mounted", beneath + 1):
                pass
            pages = {page.path: len(page.entries) for page in walk(offered, b"", 0)}
            assert pages == {b"": 3, b"bound": 0, b"mounted": 0, b"plain": 0}
        finally:
            offered.close()

    in_mount_namespace(look)


def test_a_change_while_reading_is_a_change(export: Path, offered: Tree) -> None:
    path = export / "file"
    path.write_bytes(os.urandom(3 << 20))
    version = offered.stat(b"file").version
    with open_file(offered, b"file", version) as file:
        runs = file.runs(Extent(0, 3 << 20))
        next(runs)
        with open(path, "r+b") as writer:
            writer.write(b"x")
        assert trouble(next, runs) is Trouble.CHANGED
    version = offered.stat(b"file").version
    with open_file(offered, b"file", version) as file:
        os.truncate(path, 100)
        assert trouble(list, file.runs(Extent(0, 3 << 20))) is Trouble.CHANGED
        assert trouble(file.digest, lambda: True) is Trouble.CHANGED


def test_a_short_read_is_a_change(export: Path, offered: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where the attributes do not tell, as on a file system of another host."""
    (export / "file").write_bytes(b"12345")
    monkeypatch.setattr(os, "pread", lambda *_: b"1234")
    assert trouble(content, offered, b"file") is Trouble.CHANGED


def test_a_version_is_read_only_once_its_stamp_cannot_recur(
    export: Path, offered: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels whose clock ticks coarsely stamp two changes within a tick alike."""
    (export / "file").write_bytes(b"1")
    stamp = (export / "file").stat().st_ctime_ns
    readings = [stamp + 1, stamp, stamp - 1]
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _: readings.pop())
    assert content(offered, b"file") == b"1"
    assert len(naps) == 2
    readings.append(stamp - 10**9)  # the clock was set back: no change will take this stamp
    assert content(offered, b"file") == b"1"
    assert len(naps) == 2


def test_without_seeking_for_holes_all_is_data(export: Path, offered: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = b"a" * 4096, b"z" * 4096
    with open(export / "file", "wb") as file:
        file.write(ends[0])
        file.seek((1 << 17) - 4096)
        file.write(ends[1])

    def unsupported(*_: int) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "lseek", unsupported)
    with open_file(offered, b"file", None) as opened:
        (run,) = opened.runs(Extent(0, 1 << 17))
    assert run.data == ends[0] + bytes((1 << 17) - 8192) + ends[1]


def test_holes_are_looked_for_only_where_some_can_be(
    export: Path, offered: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (export / "file").write_bytes(b"f" * 300_000)

    def asked(*_: int) -> int:
        raise AssertionError("this file has no holes")

    monkeypatch.setattr(os, "lseek", asked)
    assert content(offered, b"file") == b"f" * 300_000


@pytest.mark.parametrize("zeros", [[0], [1, 2], [0, 3], [3, 4], [0, 1, 2, 3, 4], [4]])
def test_whole_chunks_of_zeros_are_not_sent(export: Path, offered: Tree, zeros: list[int]) -> None:
    """The last one is shorter than a chunk, and is sent."""
    parts = [(b"\0" if index in zeros else b"f") * (CHUNK if index < 4 else 1000) for index in range(5)]
    (export / "file").write_bytes(b"".join(parts))
    with open_file(offered, b"file", None) as opened:
        runs = list(opened.runs(Extent(0, 4 * CHUNK + 1000)))
    assert [run.start for run in runs] == [sum(run.length for run in runs[:at]) for at in range(len(runs))]
    assert b"".join(run.data or bytes(run.length) for run in runs) == b"".join(parts)
    assert sum(run.length for run in runs if run.data is None) == CHUNK * len(set(zeros) - {4})


def test_too_many_extended_attributes_are_an_error(
    export: Path, offered: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (export / "file").write_bytes(b"")
    os.setxattr(export / "file", b"user.some", b"value")
    monkeypatch.setattr(tree, "ENTRY_XATTR_BYTES", 10)
    assert trouble(offered.stat, b"file") is Trouble.UNREADABLE
    assert ENTRY_XATTR_BYTES > 10


def test_an_unreadable_attribute_is_an_error_and_an_unsupported_one_is_none(
    export: Path, offered: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    (export / "file").write_bytes(b"")
    for number, told in ((95, True), (5, False), (13, False)):  # ENOTSUP, EIO, EACCES

        def refuse(_: object, number: int = number) -> list[str]:
            raise OSError(number, "refused")

        monkeypatch.setattr(os, "listxattr", refuse)
        if told:
            assert offered.stat(b"file").xattrs == ()
        else:
            assert trouble(offered.stat, b"file") is Trouble.UNREADABLE


def test_no_descriptor_is_left_open(export: Path, offered: Tree) -> None:
    (export / "dir").mkdir()
    for number in range(10):
        (export / "dir" / str(number)).write_bytes(b"x" * 10)
    (export / "sym").symlink_to("dir")
    os.mkfifo(export / "fifo")
    version = offered.stat(b"dir/1").version
    before = open_descriptors()
    for path in (b"", b"dir", b"dir/1", b"sym", b"fifo", b"none", b"sym/1", b"dir/1/x"):
        for action in (offered.stat, lambda path: entries(offered, path)):
            try:
                action(path)
            except TreeError:
                pass
        for expected in (None, version):
            try:
                with open_file(offered, path, expected) as file:
                    next(file.runs(Extent(0, 5)))
            except TreeError:
                pass
    pages = walk(offered, b"", 0)
    next(pages)
    pages.close()  # type: ignore[attr-defined]  # a generator, abandoned half-way
    with offered.directory(b"dir", 0) as (_, found):
        next(found)
    del found, pages
    assert open_descriptors() == before
