"""Files larger than 32 bits can count, with holes: what is read, what they occupy, what is refused."""

import errno
import os
from pathlib import Path

import pytest

from tests.mount.conftest import MakePair
from tests.support.programs import Pair

GIB = 1 << 30
SIZE = 6 * GIB + 12_345
MARKS = (0, 4 * GIB - 2, 4 * GIB + 131_072, 5 * GIB + 7, SIZE - 4)


def _prepare(source: Path) -> None:
    source.mkdir()
    with (source / "huge").open("wb") as file:
        for mark in MARKS:
            os.pwrite(file.fileno(), b"mark", mark)
        file.truncate(SIZE)


@pytest.fixture
def made(pair: MakePair) -> Pair:
    return pair("--warm", prepare=_prepare)


def test_what_lies_above_4_gib_is_read_written_and_cut(made: Pair) -> None:
    with (made.path / "huge").open("r+b") as file:
        fd = file.fileno()
        assert os.fstat(fd).st_size == SIZE
        for mark in MARKS:
            assert os.pread(fd, 4, mark) == b"mark"
        assert os.pread(fd, 8, 4 * GIB + 131_070) == b"\0\0mark\0\0"
        assert os.pwrite(fd, b"here", 5 * GIB + 9) == 4
        assert os.pread(fd, 8, 5 * GIB + 6) == b"\0mahere\0"
        os.ftruncate(fd, 5 * GIB + 10)
        os.ftruncate(fd, SIZE)
        assert os.pread(fd, 8, 5 * GIB + 6) == b"\0mah\0\0\0\0"
        assert os.pread(fd, 4, SIZE - 4) == bytes(4)
        before = os.fstat(fd)
        for offset in (2**49, 2**63 - 10):  # 2^32 chunks of 128 KiB, and the last offset that there is
            for call in (lambda at=offset: os.pwrite(fd, b"x", at), lambda at=offset: os.truncate(fd, at)):
                with pytest.raises(OSError) as caught:  # noqa: PT011
                    call()
                assert caught.value.errno == errno.EFBIG
        after = os.fstat(fd)
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert os.pread(fd, 4, 0) == b"mark"


def test_holes_stay_holes_and_are_counted_so(pair: MakePair) -> None:
    def prepare(source: Path) -> None:
        source.mkdir()
        with (source / "sparse").open("wb") as file:
            for mark in range(0, 100 << 20, 10 << 20):
                os.pwrite(file.fileno(), b"m" * 4096, mark)
            file.truncate(100 << 20)

    made = pair("--warm", prepare=prepare)
    blocks = os.stat(made.source / "sparse").st_blocks
    assert os.stat(made.path / "sparse").st_blocks == blocks
    assert made.mount.hydrate()["fetched_bytes"] == 10 * 4096
    for path in (made.path, made.mount.store / "data"):  # ext4 may need a block more to keep track of so many
        assert blocks <= os.stat(path / "sparse").st_blocks <= blocks + 16
    assert made.mount.ask("verify")["report"]["differences"] == []


def test_space_that_was_asked_for_is_there(made: Pair) -> None:
    """posix_fallocate writes where the file system cannot allocate; what was there stays."""
    with (made.path / "huge").open("r+b") as file:
        os.posix_fallocate(file.fileno(), 4 * GIB, 1 << 20)
        assert os.fstat(file.fileno()).st_size == SIZE
        assert os.pread(file.fileno(), 4, 4 * GIB + 131_072) == b"mark"
        os.posix_fallocate(file.fileno(), SIZE, 1 << 20)
        assert os.fstat(file.fileno()).st_size == SIZE + (1 << 20)
        assert os.pread(file.fileno(), 8, SIZE - 4) == b"mark\0\0\0\0"
