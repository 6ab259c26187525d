"""The page cache as the server sees it, and what a client believes of it."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.rpc.support import answering, in_trio, keep_cached
from voyfs.core.entry import Version
from voyfs.core.errors import SourceMalformed, SourceRefused
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK
from voyfs.rpc import pagecache, workingset
from voyfs.rpc.client import GrpcSource
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.reader import SourceFile, open_file
from voyfs.rpc.tree import Tree

SIZE = 40 * CHUNK + 7
PARTS = [Extent(2 * CHUNK, 3 * CHUNK), Extent(5 * CHUNK, 9 * CHUNK), Extent(40 * CHUNK, SIZE)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "file"
    made.write_bytes(os.urandom(SIZE))
    keep_cached(made, PARTS)
    return made


@pytest.fixture
def file(path: Path) -> Iterator[int]:
    opened = os.open(path, os.O_RDONLY)
    yield opened
    os.close(opened)


def test_cached_parts_are_found_and_stay_as_they_are(file: int) -> None:
    for _ in range(2):
        assert pagecache.cached_extents(file, SIZE, 100) == PARTS
    assert pagecache.cached_extents(file, SIZE, 2) == PARTS[:2]


def test_a_kernel_without_cachestat_tells_the_same(path: Path, file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(fd: int, extent: Extent) -> int:
        raise OSError(errno.ENOSYS, "cachestat")

    monkeypatch.setattr(pagecache, "_cachestat", missing)
    monkeypatch.setattr(pagecache, "_MAPPED", 8 * CHUNK)  # so that an extent lies on both sides of an end
    assert pagecache.cached_extents(file, SIZE, 100) == PARTS
    keep_cached(path, [])
    assert pagecache.cached_extents(file, SIZE, 100) == []


def test_what_the_kernel_refuses_to_tell_is_not_cached(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(fd: int, extent: Extent) -> int:
        raise OSError(errno.EPERM, "cachestat")

    monkeypatch.setattr(pagecache, "_cachestat", refused)
    assert pagecache.cached_extents(file, SIZE, 100) == []


def told(directory: Path, *, alive: bool = True) -> list[tuple[bytes, bool]]:
    tree = Tree(os.fsencode(directory))
    try:
        replies = list(workingset.working_set(tree, b"", lambda: alive))
    finally:
        tree.close()
    return [(file.path, reply.cached) for reply in replies for file in reply.files]


def test_after_what_is_cached_comes_what_was_read_lately(tmp_path: Path) -> None:
    now = time.time_ns()
    ago = {"read": 3600, "earlier": 7200, "long ago": 3 * 86400, "written": 3600}
    for name, seconds in ago.items():
        made = tmp_path / name
        made.write_bytes(b"data")
        keep_cached(made, [])
        read = now - seconds * 1_000_000_000
        os.utime(made, ns=(read, read + (1_000_000_000 if name == "written" else -1_000_000_000)))
    (tmp_path / "cached").write_bytes(b"data")
    (tmp_path / "empty").touch()
    os.utime(tmp_path / "cached", ns=(0, 0))
    os.mkfifo(tmp_path / "fifo")
    assert told(tmp_path) == [(b"cached", True), (b"read", False), (b"earlier", False)]
    assert told(tmp_path, alive=False) == []


def test_no_more_is_told_than_the_limits_allow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        made = tmp_path / f"{number}"
        made.write_bytes(os.urandom(SIZE))
        keep_cached(made, PARTS)
        os.utime(made, ns=(number, number))
    monkeypatch.setattr(workingset, "WORKING_SET_FILES", 3)
    monkeypatch.setattr(workingset, "WORKING_SET_EXTENTS", 7)
    monkeypatch.setattr(workingset, "PAGE_BYTES", 1)
    tree = Tree(os.fsencode(tmp_path))
    replies = list(workingset.working_set(tree, b"", lambda: True))
    tree.close()
    assert [[file.path for file in reply.files] for reply in replies] == [[b"4"], [b"3"], [b"2"]]
    monkeypatch.setattr(workingset, "WORKING_SET_FILES", 5)
    tree = Tree(os.fsencode(tmp_path))
    replies = list(workingset.working_set(tree, b"", lambda: True))
    tree.close()
    assert sorted(len(reply.files[0].extents) for reply in replies) == [1, 1, 1, 3, 3]


def test_the_last_used_are_told_before_the_rest_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        (tmp_path / f"{number}").write_bytes(b"data")
        os.utime(tmp_path / f"{number}", ns=(number, number))
    keep_cached(tmp_path / "4", [])
    opened: list[bytes] = []

    def noting(tree: Tree, path: bytes, version: Version | None) -> AbstractContextManager[SourceFile]:
        opened.append(path)
        return open_file(tree, path, version)

    monkeypatch.setattr(workingset, "open_file", noting)
    monkeypatch.setattr(workingset, "SOON_FILES", 2)
    tree = Tree(os.fsencode(tmp_path))
    replies = workingset.working_set(tree, b"", lambda: True)
    assert [file.path for file in next(replies).files] == [b"3"]
    assert opened == [b"4", b"3"]
    assert [file.path for reply in replies for file in reply.files] == [b"2", b"1", b"0"]
    tree.close()


VERSION = pb.Version(inode=5, size=100)


@pytest.mark.parametrize(
    "files",
    [
        [pb.FileRanges(path=b"../a", version=VERSION)],
        [pb.FileRanges(path=b"a", version=VERSION, extents=[pb.Extent(offset=50, length=51)])],
        [pb.FileRanges(path=b"a", version=VERSION, extents=[pb.Extent(offset=0, length=0)])],
    ],
    ids=["path", "past the end", "empty"],
)
@in_trio
async def test_lies_are_not_believed(files: list[pb.FileRanges]) -> None:
    with answering({"WorkingSet": lambda _: [pb.WorkingSetReply(files=files).SerializeToString()]}) as address:
        async with GrpcSource(address) as source:
            with pytest.raises(SourceMalformed):
                async with source.working_set(b"") as found:
                    [file async for file in found]


@in_trio
async def test_a_server_that_knows_no_working_sets_refuses_and_is_reachable() -> None:
    with answering({}) as address:
        async with GrpcSource(address) as source:
            with pytest.raises(SourceRefused):
                async with source.working_set(b"") as found:
                    [file async for file in found]
            assert source.reachable
