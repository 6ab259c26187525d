"""A source that goes away, comes back, and changes; many readers; demand against background."""

import errno
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from tests.mount.conftest import MakePair
from tests.support.programs import SECONDS, Pair, bounded, mounted, served, until
from voyfs import syscalls
from voyfs.core.errors import ControlError, NotComplete, SourceChanged, SourceUnreachable
from voyfs.core.limits import CHUNK

MIB = 1 << 20
BLOCK = os.urandom(MIB)


def data(size: int, seed: int = 0) -> bytes:
    """Bytes that differ at every chunk and for every seed."""
    marked = bytearray((BLOCK * (size // MIB + 1))[:size])
    for at in range(0, size - 8, 4096):
        marked[at : at + 8] = (seed << 32 | at).to_bytes(8, "big")
    return bytes(marked)


def _moved(made: Pair, before: int) -> bool:
    """Whether more than `before` bytes are local, or there are no more."""
    status = made.mount.status()
    return bool(status["bytes"]["present"] > before or status["phase"] == "hydrated")


def some_files(source: Path) -> None:
    source.mkdir()
    (source / "big").write_bytes(data(12 * MIB))
    (source / "small").write_bytes(b"small")
    (source / "local").write_bytes(b"local" * 1000)
    (source / "dir" / "below").mkdir(parents=True)
    (source / "dir" / "f").write_bytes(b"f" * 300_000)


@contextmanager
def reading(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that reads all of `path` to its stdout."""
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def test_readers_wait_for_a_source_that_comes_back(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    assert (made.path / "local").read_bytes() == b"local" * 1000
    expected = (made.source / "big").read_bytes()
    made.server.stop()
    with ThreadPoolExecutor() as pool:
        whole = pool.submit((made.path / "big").read_bytes)
        listed = pool.submit(os.listdir, made.path / "dir")
        until(lambda: not made.mount.status()["source"]["reachable"])
        # all that is local is served meanwhile, and whatever is new
        assert (made.path / "local").read_bytes() == b"local" * 1000
        (made.path / "new").write_bytes(b"new")
        with (made.path / "small").open("r+b") as small:
            small.write(b"SMALL")  # a whole chunk needs no source
        assert (made.path / "small").read_bytes() == b"SMALL"
        assert not whole.done()
        made.server.start()
        assert whole.result(SECONDS) == expected
        assert listed.result(SECONDS) == ["below", "f"] or sorted(listed.result()) == ["below", "f"]
    made.mount.hydrate()


def test_a_server_killed_again_and_again_during_hydration_costs_time_only(pair: MakePair, torture: bool) -> None:
    def many(source: Path) -> None:
        source.mkdir()
        for number in range(60):
            (source / f"{number:03}").write_bytes(data(MIB + number, number))

    made = pair("--warm", prepare=many)
    made.mount.ask("hydrate")
    with ThreadPoolExecutor(4) as pool:
        read = [pool.submit((made.path / f"{number:03}").read_bytes) for number in range(0, 60, 7)]
        for _ in range(20 if torture else 3):
            before = made.mount.status()["bytes"]["present"]
            made.server.restart()
            until(partial(_moved, made, before))
        for number, result in zip(range(0, 60, 7), read, strict=True):
            assert result.result(SECONDS) == data(MIB + number, number)
    made.mount.hydrate()
    for number in range(60):
        assert (made.mount.store / "data" / f"{number:03}").read_bytes() == data(MIB + number, number)


def test_eio_after_the_declared_time_and_never_before(pair: MakePair) -> None:
    made = pair("--warm", "--on-source-loss", "eio:1", prepare=some_files)
    assert (made.path / "local").read_bytes() == b"local" * 1000
    with (made.path / "big").open("rb") as big:
        assert big.read(10) == data(12 * MIB)[:10]
    made.server.stop()

    def read_far() -> None:
        with (made.path / "big").open("rb") as big:
            os.pread(big.fileno(), 10, 10 * MIB)

    for call in (
        lambda: (made.path / "small").read_bytes(),
        read_far,
        lambda: os.listdir(made.path / "dir"),
        lambda: os.stat(made.path / "dir" / "f"),
    ):
        start = time.monotonic()
        with pytest.raises(OSError) as caught:  # noqa: PT011
            bounded(call)
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - start >= 0.9
    assert (made.path / "local").read_bytes() == b"local" * 1000
    with (made.path / "big").open("rb") as big:
        assert big.read(10) == data(12 * MIB)[:10]
    made.server.start()
    assert sorted(os.listdir(made.path / "dir")) == ["below", "f"]
    assert (made.path / "big").read_bytes() == data(12 * MIB)


def test_eio_at_once(pair: MakePair) -> None:
    made = pair("--warm", "--on-source-loss", "eio", prepare=some_files)
    os.listdir(made.path)
    made.server.stop()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        bounded((made.path / "small").read_bytes)
    assert caught.value.errno == errno.EIO


def test_a_file_changed_on_the_source_is_stale_where_absent(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    with (made.path / "big").open("rb") as big:
        assert os.pread(big.fileno(), CHUNK, 0) == data(12 * MIB)[:CHUNK]
    with (made.source / "big").open("r+b") as changed:
        changed.seek(9 * MIB)
        changed.write(b"other")
    with (made.path / "big").open("rb") as big:
        with pytest.raises(OSError) as caught:  # noqa: PT011
            os.pread(big.fileno(), CHUNK, 9 * MIB)
        assert caught.value.errno == errno.ESTALE
        assert os.pread(big.fileno(), CHUNK, 0) == data(12 * MIB)[:CHUNK]
    (problem,) = made.mount.status()["problems"]
    assert (problem["path"], problem["event"]) == ("big", "source-changed")
    assert '"event": "source-changed"' in made.mount.log.read_text()
    with pytest.raises(NotComplete, match="big"):
        made.mount.hydrate()
    with pytest.raises(NotComplete, match="big"):
        made.mount.ask("detach")
    # what the container no longer wants is no hindrance
    (made.path / "big").unlink()
    made.mount.hydrate()
    assert made.mount.ask("verify")["report"]["differences"] == []
    made.mount.ask("detach")


def test_a_directory_replaced_on_the_source_is_stale(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    os.listdir(made.path)
    (made.source / "dir").rename(made.source / "old")
    (made.source / "dir").mkdir()
    with pytest.raises(OSError) as caught:  # noqa: PT011
        os.listdir(made.path / "dir")
    assert caught.value.errno == errno.ESTALE


def test_each_chunk_is_fetched_once_however_many_read(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    path = made.path / "big"
    size = 12 * MIB

    def read_all(start: int) -> bytes:
        """Straight from the daemon, beginning anywhere."""
        import mmap

        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
        try:
            with mmap.mmap(-1, 256 * 1024) as buffer:
                parts = {}
                for step in range(0, size, len(buffer)):
                    at = (start + step) % size
                    os.preadv(descriptor, [buffer], at)
                    parts[at] = bytes(buffer)
                return b"".join(parts[at] for at in sorted(parts))
        finally:
            os.close(descriptor)

    with ThreadPoolExecutor(16) as pool:
        results = [pool.submit(read_all, (number % 4) * 3 * MIB) for number in range(16)]
        made.mount.ask("hydrate")
        for result in results:
            assert result.result(SECONDS) == data(size)
    status = made.mount.hydrate()
    assert status["fetched_bytes"] == status["bytes"]["total"]


def test_demand_is_served_while_the_background_stands_still(pair: MakePair) -> None:
    def many(source: Path) -> None:
        source.mkdir()
        for number in range(30):
            (source / f"{number:03}").write_bytes(data(2 * MIB, number))

    made = pair("--warm", prepare=many)
    names = [entry.name for entry in sorted(os.scandir(made.path), key=lambda entry: entry.inode())]
    server = made.server.process
    assert server is not None
    server.send_signal(signal.SIGSTOP)  # so that what the background has claimed is the first jobs, and stays so
    made.mount.ask("hydrate")
    bulk = made.mount.bulk()
    os.kill(bulk, signal.SIGSTOP)
    server.send_signal(signal.SIGCONT)
    try:
        for name in names[20:]:
            assert bounded((made.path / name).read_bytes) == data(2 * MIB, int(name))
        assert made.mount.status()["phase"] == "hydrating"
    finally:
        os.kill(bulk, signal.SIGCONT)
    made.mount.hydrate()


def test_a_killed_bulk_process_costs_time_only(pair: MakePair) -> None:
    def many(source: Path) -> None:
        source.mkdir()
        for number in range(40):
            (source / f"{number:03}").write_bytes(data(2 * MIB, number))

    made = pair("--warm", prepare=many)
    made.mount.ask("hydrate")
    os.kill(made.mount.bulk(), signal.SIGKILL)
    made.mount.hydrate()
    for number in range(40):
        assert (made.path / f"{number:03}").read_bytes() == data(2 * MIB, number)


def test_who_reads_a_long_file_is_served_by_a_process_of_its_own_and_by_the_daemon_without_it(pair: MakePair) -> None:
    size = 128 * MIB

    def prepare(source: Path) -> None:
        source.mkdir()
        (source / "long").write_bytes(data(size))

    made = pair("--warm", prepare=prepare)
    content = data(size)
    with (made.path / "long").open("rb", buffering=0) as file:
        for start in range(0, size, MIB):
            assert file.read(MIB) == content[start : start + MIB]
            if start in (16 * MIB, 64 * MIB):
                os.kill(made.mount.bulk(), signal.SIGKILL)
    status = made.mount.status()
    assert status["fetched_bytes"] == status["bytes"]["present"] == size


def test_a_warm_mount_is_corrected_when_its_source_has_come_to_rest(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    (made.path / "big").read_bytes()
    (made.path / "small").read_bytes()
    os.listdir(made.path / "dir")
    (made.source / "small").write_bytes(b"grown larger")
    (made.source / "dir" / "f").unlink()
    (made.source / "dir" / "g").write_bytes(b"new")
    (made.source / "dir" / "below" / "h").write_bytes(b"deep")
    assert made.mount.ask("refresh")["changed"]
    assert (made.path / "small").read_bytes() == b"grown larger"
    assert sorted(os.listdir(made.path / "dir")) == ["below", "g"]
    assert (made.path / "dir" / "g").read_bytes() == b"new"
    assert os.listdir(made.path / "dir" / "below") == ["h"]
    made.mount.hydrate()
    assert made.mount.ask("verify")["report"]["differences"] == []


def test_no_request_ends_the_daemon(pair: MakePair) -> None:
    """Not even one that fails in several places at once."""
    made = pair("--warm", "--on-source-loss", "eio", prepare=some_files)
    os.listdir(made.path / "dir" / "below")
    made.server.stop()
    daemon = made.mount.daemon
    with pytest.raises(SourceUnreachable):
        made.mount.ask("refresh")
    for op, arguments in (("nonsense", {}), ("prefetch", {"paths": 7}), ("prefetch", {}), ("prefetch", {"paths": [7]})):
        with pytest.raises(ControlError):
            made.mount.ask(op, **arguments)
    assert made.mount.daemon == daemon


def test_who_waits_for_the_source_can_be_killed(pair: MakePair) -> None:
    made = pair("--warm", prepare=some_files)
    os.listdir(made.path)
    made.server.stop()
    listing = ["ls", made.path / "dir"]
    with reading(made.path / "small") as reader, subprocess.Popen(listing, stdout=subprocess.PIPE) as lister:
        until(lambda: not made.mount.status()["source"]["reachable"])
        for process in (reader, lister):
            process.kill()
            assert process.wait(10) == -signal.SIGKILL
    made.mount.unmount()  # a call is still under way in the daemon, and has nobody to answer


def test_changes_that_need_no_source_do_not_wait_for_one(pair: MakePair) -> None:
    """Not even those of chunks for which somebody waits; past the page cache, whose pages the kernel locks itself."""
    made = pair("--warm", prepare=some_files)
    os.listdir(made.path)
    made.server.stop()
    with (made.path / "big").open("r+b") as big, ThreadPoolExecutor() as pool:
        direct = os.open(made.path / "big", os.O_RDONLY | os.O_DIRECT)
        try:
            buffer = mmap.mmap(-1, 4 * CHUNK)
            reader = pool.submit(os.preadv, direct, [buffer], 8 * CHUNK)
            until(lambda: not made.mount.status()["source"]["reachable"])
            os.truncate(made.path / "small", 0)
            assert bounded(lambda: os.pwrite(big.fileno(), b"w" * CHUNK, 8 * CHUNK)) == CHUNK
            bounded(lambda: big.truncate(9 * CHUNK))
            assert not reader.done()
        finally:
            made.server.start()
        assert reader.result(SECONDS) == CHUNK
        assert buffer[:CHUNK] == b"w" * CHUNK
        os.close(direct)
    assert (made.path / "big").read_bytes() == data(12 * MIB)[: 8 * CHUNK] + b"w" * CHUNK


def test_threads_do_not_pile_up(pair: MakePair) -> None:
    """Local calls are answered while very many wait for the source."""
    made = pair("--warm", prepare=some_files)
    (made.path / "local").read_bytes()
    made.server.stop()
    waiting = [threading.Thread(target=_try, args=(made, number)) for number in range(100)]
    for thread in waiting:
        thread.start()
    until(lambda: not made.mount.status()["source"]["reachable"])
    for _ in range(50):
        assert (made.path / "local").stat().st_size == 5000
        os.statvfs(made.path)
    made.server.start()
    for thread in waiting:
        thread.join(SECONDS)
        assert not thread.is_alive()
    assert sys.getrefcount(made)


def _try(made: Pair, number: int) -> None:
    with (made.path / "big").open("rb") as big:
        assert os.pread(big.fileno(), 4096, number * CHUNK % (12 * MIB)) != b""


def test_another_tree_at_the_same_address_is_not_taken_for_the_source(tmp_path: Path) -> None:
    """Though its directories have the same inodes, as those of two small file systems often have."""
    trees = tmp_path / "one", tmp_path / "other"
    with ExitStack() as stack:
        for tree in trees:
            tree.mkdir()
            syscalls.mount(b"none", os.fsencode(tree), b"tmpfs", 0, b"size=1m")
            stack.callback(syscalls.umount, os.fsencode(tree), syscalls.MNT_DETACH)
            for name in "dir", "dir2":
                (tree / name).mkdir()
                (tree / name / tree.name).write_bytes(b"of " + os.fsencode(tree.name))
        assert (trees[0] / "dir").stat().st_ino == (trees[1] / "dir").stat().st_ino
        server = stack.enter_context(served(trees[0]))
        mount = stack.enter_context(mounted(server.address, tmp_path / "mount", tmp_path / "store", "--warm"))
        assert os.listdir(mount.path / "dir2") == ["one"]
        server.stop()
        with served(trees[1], address=server.address):
            for call in (lambda: os.listdir(mount.path / "dir"), (mount.path / "dir2" / "one").read_bytes):
                with pytest.raises(OSError) as caught:  # noqa: PT011
                    bounded(call)
                assert caught.value.errno == errno.ESTALE
            with pytest.raises(SourceChanged):
                mount.ask("refresh")
            with pytest.raises(NotComplete, match="another tree"):
                mount.hydrate()
        server.start()
        mount.hydrate()
        assert (mount.path / "dir" / "one").read_bytes() == b"of one"
        assert mount.ask("verify")["report"]["differences"] == []
