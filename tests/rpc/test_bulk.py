"""The bulk lane: its process, real servers, real files."""

import errno
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio
import zstandard

from tests.rpc.support import Part, answering, fetched, in_mount_namespace, in_trio, mount, part, serving
from voyfs.bulk import BulkProcess, lane
from voyfs.bulk.frames import (
    Setup,
    decode_jobs,
    decode_outcomes,
    decode_setup,
    encode_jobs,
    encode_outcomes,
    encode_setup,
)
from voyfs.bulk.landing import Landing
from voyfs.certs import make_ca, make_host
from voyfs.core.entry import Version
from voyfs.core.errors import (
    InsecureError,
    SourceChanged,
    SourceCorrupt,
    SourceError,
    SourceMalformed,
    SourceRefused,
    SourceUnreachable,
    SourceUnreadable,
)
from voyfs.core.extents import Extent
from voyfs.core.limits import BULK_JOB_BYTES, BULK_JOB_FILES, CHUNK, MIB
from voyfs.ports import FileDone, FileJob, Piece
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.tls import TlsFiles

DATA = bytes(range(100))
VERSION = Version(1, 100, 0, 0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.mkdir()
    return path


@asynccontextmanager
async def bulk(address: str, data: Path, tls: TlsFiles | None = None) -> AsyncIterator[BulkProcess]:
    process = BulkProcess(address, data, tls=tls)
    try:
        yield process
    finally:
        await process.close()


def placeholder(data: Path, name: str, size: int) -> int:
    """A sparse file as the store makes them; its inode."""
    with open(data / name, "wb") as file:
        file.truncate(size)
        return os.fstat(file.fileno()).st_ino


def job(export: Path, data: Path, name: str, *extents: Extent, inode: int = 0) -> FileJob:
    """The whole of a file unless `extents` are given; its placeholder is made if need be."""
    status = (export / name).stat()
    if not (data / name).exists():
        placeholder(data, name, status.st_size)
    return FileJob(
        local=os.fsencode(name),
        inode=inode or (data / name).stat().st_ino,
        source=os.fsencode(name),
        version=Version(status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns),
        extents=extents or (Extent(0, status.st_size),),
    )


def one(data: Path, **changes: Any) -> FileJob:
    """The job of a file of 100 bytes that an answering server makes up."""
    inode = placeholder(data, "file", 100)
    fields: dict[str, Any] = {
        "local": b"file",
        "inode": inode,
        "source": b"file",
        "version": VERSION,
        "extents": (Extent(0, 100),),
    }
    return FileJob(**(fields | changes))


# What lands


@in_trio
async def test_files_land_whole_and_holes_stay_holes(export: Path, data: Path) -> None:
    (export / "big").write_bytes(os.urandom(3 * MIB + 12345))
    with open(export / "sparse", "wb") as file:
        file.truncate(1 << 30)
        file.seek(1 << 20)
        file.write(DATA * 100)
    with serving(export) as server:
        async with bulk(str(server.address), data) as process:
            size = (export / "big").stat().st_size
            outcomes: dict[int, list[FileDone]] = {}

            async def run(number: int, *jobs: FileJob) -> None:
                outcomes[number] = await process.run(jobs)

            async with trio.open_nursery() as nursery:
                for number, start in enumerate(range(0, size, MIB)):
                    extent = Extent(start, min(start + MIB, size))
                    nursery.start_soon(run, number, job(export, data, "big", extent))
                extents = Extent(0, 5), Extent(MIB - 7, 2 * MIB)
                nursery.start_soon(run, 99, job(export, data, "sparse", *extents))
            assert all(done.error is None for run in outcomes.values() for done in run)
            assert sum(outcomes[number][0].data_bytes for number in range(4)) == size
            assert outcomes[99][0].data_bytes < 20_000
    assert (data / "big").read_bytes() == (export / "big").read_bytes()
    assert (data / "sparse").stat().st_size == 1 << 30
    assert (data / "sparse").stat().st_blocks * 512 < 100_000
    with open(data / "sparse", "rb") as landed:
        landed.seek(1 << 20)
        assert landed.read(len(DATA) * 100 + 1) == DATA * 100 + b"\0"


@in_trio
async def test_many_small_files_land_in_one_run(export: Path, data: Path) -> None:
    names = [f"n{number}" for number in range(BULK_JOB_FILES)]
    for number, name in enumerate(names):
        (export / name).write_bytes(name.encode() * (number % 7))
    with serving(export) as server:
        async with bulk(str(server.address), data) as process:
            jobs = [job(export, data, name) for name in names if (export / name).stat().st_size]
            assert await process.run([]) == []
            outcomes = await process.run(jobs)
    assert [done.error for done in outcomes] == [None] * len(jobs)
    for name in names:
        if (data / name).exists():
            assert (data / name).read_bytes() == (export / name).read_bytes()


@in_trio
async def test_nothing_but_the_asked_ranges_is_touched(export: Path, data: Path) -> None:
    (data / "file").write_bytes(b"?" * 300_000)
    with serving(export) as server:
        async with bulk(str(server.address), data) as process:
            extents = Extent(10, 20), Extent(20, 21), Extent(299_999, 300_000)
            (done,) = await process.run([job(export, data, "file", *extents)])
    assert (done.error, done.data_bytes) == (None, 12)
    content = (export / "file").read_bytes()
    expected = b"?" * 10 + content[10:21] + b"?" * (299_999 - 21) + content[-1:]
    assert (data / "file").read_bytes() == expected


# What does not


@in_trio
async def test_a_file_that_is_not_the_one_meant_is_left_alone(export: Path, data: Path, tmp_path: Path) -> None:
    names = ("0", "1", "2", "3", "4", "5")
    jobs = []
    for name in names:
        (export / name).write_bytes(DATA)
        jobs.append(job(export, data, name))
    (data / "0").rename(data / "renamed")  # and nothing in its place
    (data / "1").rename(data / "other")
    (data / "1").write_bytes(b"b" * 100)  # another file in its place
    os.truncate(data / "2", 50)  # by the container: what lies beyond is gone for good
    (data / "3").unlink()
    (tmp_path / "outside").write_bytes(b"o" * 100)
    (data / "3").symlink_to("../outside")
    (data / "4").unlink()
    os.mkfifo(data / "4")
    with serving(export) as server:
        async with bulk(str(server.address), data) as process:
            outcomes = await process.run(jobs)
    errors = [done.error for done in outcomes]
    for error in errors[:3]:
        assert isinstance(error, FileNotFoundError)
    assert isinstance(errors[3], OSError)
    assert isinstance(errors[4], OSError)
    assert errors[5] is None
    assert (data / "5").read_bytes() == DATA
    assert not (data / "0").exists()
    assert (data / "renamed").read_bytes() == bytes(100)
    assert (data / "1").read_bytes() == b"b" * 100
    assert (data / "2").read_bytes() == bytes(50)
    assert (tmp_path / "outside").read_bytes() == b"o" * 100


def test_landing_never_leaves_its_directory(data: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"o" * 100)
    (data / "link").symlink_to("..")
    landing = Landing(data)
    inode = (tmp_path / "outside").stat().st_ino
    for local in (b"../outside", b"link/outside", os.fsencode(tmp_path / "outside"), b"", b"."):
        with pytest.raises(OSError, match=r"."):
            landing.open(one(data, local=local, inode=inode))
    with landing.open(one(data)) as target, pytest.raises(FileNotFoundError):
        target.write(Piece(50, 51, bytes(51)))
    assert (data / "file").stat().st_size == 100


@in_trio
async def test_errors_of_the_source_are_told_per_file(export: Path, data: Path) -> None:
    names = ("changed", "gone", "fine")
    jobs = []
    for name in names:
        (export / name).write_bytes(DATA)
        jobs.append(job(export, data, name))
    (export / "changed").write_bytes(DATA[::-1])
    (export / "gone").unlink()
    with serving(export) as server:
        async with bulk(str(server.address), data) as process:
            changed, gone, fine = await process.run(jobs)
    assert isinstance(changed.error, SourceChanged)
    assert isinstance(gone.error, SourceChanged)
    assert (fine.error, fine.data_bytes) == (None, 100)
    assert (data / "changed").read_bytes() == bytes(100)


def test_a_full_disk_is_told_and_the_lane_goes_on(export: Path, tmp_path: Path) -> None:
    """In mounts of its own, where the backing directory is a file system of 1 MiB."""
    small = tmp_path / "small"
    small.mkdir()
    (export / "big").write_bytes(os.urandom(BULK_JOB_BYTES))

    def fill() -> None:
        mount(b"none", os.fsencode(small), b"tmpfs", 0, b"size=1m")

        @in_trio
        async def run() -> None:
            with serving(export) as server:
                async with bulk(str(server.address), small) as process:
                    (full,) = await process.run([job(export, small, "big")])
                    assert isinstance(full.error, OSError)
                    assert full.error.errno == errno.ENOSPC
                    (small / "big").unlink()
                    (fine,) = await process.run([job(export, small, "file")])
                    assert fine.error is None
            assert (small / "file").read_bytes() == (export / "file").read_bytes()

        run()

    in_mount_namespace(fill)


@in_trio
async def test_what_a_seed_has_lands_from_there(export: Path, data: Path, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    (seed / "dir").mkdir(parents=True)
    content = (export / "file").read_bytes()
    (seed / "file").write_bytes(content[:CHUNK] + b"other" + content[CHUNK + 5 :] + b"longer")
    (data / "file").write_bytes(b"?" * len(content))
    with serving(export) as server:
        process = BulkProcess(str(server.address), data, seeds=[str(seed), str(tmp_path / "missing")])
        try:
            extents = Extent(100, 2 * CHUNK), Extent(2 * CHUNK + 1, len(content))
            (done,) = await process.run([job(export, data, "file", *extents)])
            assert (done.error, done.data_bytes) == (None, CHUNK)
            assert done.seed_bytes == len(content) - 101 - CHUNK
            assert (data / "file").read_bytes() == b"?" * 100 + content[100 : 2 * CHUNK] + b"?" + content[
                2 * CHUNK + 1 :
            ]
            (export / "file").write_bytes(content)  # another version: an offer of the old one does not count
            (done,) = await process.run(
                [replace(job(export, data, "file"), version=VERSION, extents=(Extent(0, 100),))]
            )
            assert isinstance(done.error, SourceChanged)
            assert done.seed_bytes == 0
        finally:
            await process.close()


# Packed


@in_trio
async def test_what_comes_packed_lands_as_it_is(export: Path, data: Path) -> None:
    """Enough of it that both ways are tried; of data that does not get smaller, and with holes."""
    names = [f"large-{number}" for number in range(16)]
    random.seed(7)
    text = b"".join(b"%d: what can be said shorter\n" % number for number in range(1 << 17))[: 1 << 21]
    for number, name in enumerate(names):
        with (export / name).open("wb") as file:
            file.write(text if number % 4 else random.randbytes(1 << 21))
            file.seek(CHUNK, os.SEEK_CUR)
            file.write(b"end")
    spared = 0
    with serving(export) as server:
        async with bulk(str(server.address), data) as process:
            for name in names:
                size = (export / name).stat().st_size
                extents = [Extent(start, min(start + (1 << 20), size)) for start in range(0, size, 1 << 20)]
                for done in await process.run([job(export, data, name, *extents[:2], inode=0)]):
                    assert done.error is None
                    assert done.data_bytes == 1 << 21
                    spared += done.spared_bytes
                (done,) = await process.run([job(export, data, name, *extents[2:])])
                assert done.error is None
                assert (data / name).read_bytes() == (export / name).read_bytes()
    assert spared > 1 << 21
    assert all((data / name).stat().st_blocks * 512 < (1 << 21) + CHUNK for name in names)


PACKED = zstandard.ZstdCompressor().compress(DATA)
FRAMES = {
    "of another length": zstandard.ZstdCompressor().compress(DATA + b"more"),
    "that does not say its length": zstandard.ZstdCompressor(write_content_size=False).compress(DATA),
    "that says a huge length": b"\x28\xb5\x2f\xfd\xe0" + b"\xff" * 7 + b"\x7f" + PACKED[9:],
    "that is cut off": PACKED[:-3],
    "that is none": b"?" * 40,
    "of other data": zstandard.ZstdCompressor().compress(b"!" + DATA[1:]),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES)
@in_trio
async def test_a_damaged_frame_is_asked_for_again_and_never_lands(frame: bytes, data: Path) -> None:
    asked = 0

    def answer(request: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        nonlocal asked
        asked += 1
        piece, _ = sound()
        sent = frame if asked == 1 else PACKED
        piece.packed = len(sent)
        return [fetched((piece, sent), id=request.id)]

    with answering(stream(answer)) as address:
        async with bulk(address, data) as process:
            (done,) = await process.run([one(data)])
    assert (done.error, asked) == (None, 2)
    assert (data / "file").read_bytes() == DATA


# Faulty sources


def stream(answer: Callable[[pb.FetchRequest], Sequence[pb.FetchReply]]) -> dict[str, Any]:
    def raw(request: bytes) -> list[bytes]:
        message = pb.FetchRequest.FromString(request)
        return [reply.SerializeToString() for reply in answer(message)]

    return {"Stream": raw}


def sound(start: int = 0, stop: int = 100, file: int = 0) -> Part:
    return part(start, DATA[start:stop], file=file)


@pytest.mark.parametrize("broken", [1, 3, 1000])
@in_trio
async def test_damaged_data_is_asked_for_again_and_never_lands(broken: int, data: Path) -> None:
    asked: list[int] = []

    def answer(request: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        asked.append(len(request.files))
        pieces = [sound(file=file) for file in range(len(request.files))]
        if len(asked) <= broken:
            pieces[-1] = pieces[-1][0], b"!" + DATA[1:]
        return [fetched(*pieces, id=request.id)]

    second = placeholder(data, "second", 100)
    jobs = [one(data), one(data, local=b"second", source=b"second", inode=second)]
    with answering(stream(answer)) as address:
        async with bulk(address, data) as process:
            fine, damaged = await process.run(jobs)
    assert fine.error is None
    assert (data / "file").read_bytes() == DATA
    if broken <= 3:
        assert damaged.error is None
        assert (data / "second").read_bytes() == DATA
    else:
        assert isinstance(damaged.error, SourceCorrupt)
        assert (data / "second").read_bytes() == bytes(100)
    assert asked == [2] + [1] * min(broken, 3)  # only what was damaged


MALFORMED: dict[str, Callable[[int], list[pb.FetchReply]]] = {
    "unknown id": lambda id_: [fetched(sound(), id=id_ + 7)],
    "unfinished": lambda id_: [fetched(sound(0, 99), id=id_)],
    "nothing": lambda id_: [pb.FetchReply(id=id_, last=True)],
    "another file": lambda id_: [fetched(sound(file=1), id=id_)],
    "failure of another": lambda id_: [
        pb.FetchReply(id=id_, failures=[pb.Failure(file=9, reason=pb.CHANGED)], last=True)
    ],
    "reordered": lambda id_: [fetched(sound(50, 100), sound(0, 50), id=id_)],
    "long": lambda id_: [fetched(sound(0, 50), sound(0, 51), id=id_)],
    "a packed hole": lambda id_: [fetched((pb.Piece(length=100, hole=True, packed=4), b""), id=id_)],
    "packed, with less data than it says": lambda id_: [fetched(part(0, DATA, packed=150), id=id_)],
    "a long hole": lambda id_: [fetched((pb.Piece(length=2**62, hole=True), b""), id=id_)],
    "twice": lambda id_: [
        fetched(sound(0, 50), id=id_, last=False),
        fetched(sound(0, 50), id=id_, last=False),
    ],
}


@pytest.mark.parametrize("replies", MALFORMED.values(), ids=MALFORMED)
@in_trio
async def test_impossible_replies_are_malformed_and_the_lane_goes_on(
    replies: Callable[[int], list[pb.FetchReply]], data: Path
) -> None:
    asked = 0

    def answer(request: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        nonlocal asked
        asked += 1
        if asked > 1:
            return [fetched(sound(), id=request.id)]
        return replies(request.id)

    with answering(stream(answer)) as address:
        async with bulk(address, data) as process:
            (done,) = await process.run([one(data)])
            assert isinstance(done.error, SourceMalformed)
            (done,) = await process.run([one(data)])
            assert done.error is None
    assert (data / "file").read_bytes() == DATA


@in_trio
async def test_files_out_of_order_are_malformed(data: Path) -> None:
    def answer(request: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        return [fetched(sound(file=1), sound(file=0), id=request.id)]

    second = placeholder(data, "second", 100)
    jobs = [one(data), one(data, local=b"second", inode=second)]
    with answering(stream(answer)) as address:
        async with bulk(address, data) as process:
            first, done = await process.run(jobs)
    assert isinstance(first.error, SourceMalformed)
    assert done.error is None  # its bytes were checked, and have landed
    assert (data / "file").read_bytes() == bytes(100)


@in_trio
async def test_a_lost_source_fails_what_is_under_way_and_a_new_one_is_used(export: Path, data: Path) -> None:
    with ExitStack() as stack:
        running = stack.enter_context(ExitStack())
        address = str(running.enter_context(serving(export)).address)
        async with bulk(address, data) as process:
            (done,) = await process.run([job(export, data, "file")])
            assert done.error is None
            pid = process.pid
            await trio.to_thread.run_sync(running.close)
            (done,) = await process.run([job(export, data, "file")])
            assert isinstance(done.error, SourceUnreachable)
            running.enter_context(serving(export, listen=address))
            while isinstance(done.error, SourceUnreachable):
                (done,) = await process.run([job(export, data, "file")])
            assert done.error is None
            assert process.pid == pid


@in_trio
async def test_tls_is_used_where_it_is_given(export: Path, data: Path, tmp_path: Path) -> None:
    make_ca(tmp_path / "certs")
    server_tls = make_host(tmp_path / "certs", ["127.0.0.1"])
    tls = make_host(tmp_path / "certs", ["client"])
    with serving(export, tls=server_tls) as server:
        async with bulk(str(server.address), data, tls) as process:
            (done,) = await process.run([job(export, data, "file")])
            assert done.error is None
    with pytest.raises(InsecureError):
        BulkProcess("192.0.2.1:1", data)


# The process


@in_trio
async def test_a_killed_process_fails_its_jobs_and_starts_again(data: Path) -> None:
    asked = threading.Semaphore(0)
    go_on = threading.Event()

    def answer(request: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        asked.release()
        go_on.wait(30)
        return [fetched(sound(), id=request.id)]

    with answering(stream(answer)) as address:
        async with bulk(address, data) as process:
            outcomes: list[FileDone] = []

            async def run() -> None:
                outcomes.extend(await process.run([one(data)]))

            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(run)
                    nursery.start_soon(run)
                    await trio.to_thread.run_sync(asked.acquire, abandon_on_cancel=True)
                    assert process.pid is not None
                    os.kill(process.pid, signal.SIGKILL)
                assert [type(done.error) for done in outcomes] == [SourceUnreachable] * 2
                assert process.pid is None
            finally:
                go_on.set()
            (done,) = await process.run([one(data)])
            assert done.error is None
    assert (data / "file").read_bytes() == DATA


@pytest.mark.parametrize("end", ["cancel", "close"])
@in_trio
async def test_what_ends_early_leaves_no_process_behind(end: str, data: Path) -> None:
    asked = threading.Semaphore(0)
    go_on = threading.Event()

    def answer(_: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        asked.release()
        go_on.wait(30)
        return []

    with answering(stream(answer)) as address:
        process = BulkProcess(address, data)
        outcomes: list[FileDone] = []
        try:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def run() -> None:
                    outcomes.extend(await process.run([one(data)]))

                await trio.to_thread.run_sync(asked.acquire, abandon_on_cancel=True)
                pid = process.pid
                assert pid is not None
                if end == "cancel":
                    nursery.cancel_scope.cancel()
                else:
                    await process.close()
        finally:
            go_on.set()
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert [type(done.error) for done in outcomes] == [SourceUnreachable] * (end == "close")
        await process.close()
        (done,) = await process.run([one(data)])
        assert isinstance(done.error, SourceUnreachable)


@in_trio
async def test_runs_are_bounded(data: Path) -> None:
    process = BulkProcess("127.0.0.1:1", data)
    with pytest.raises(ValueError, match="BULK_JOB_FILES"):
        await process.run([one(data)] * (BULK_JOB_FILES + 1))
    big = one(data, version=Version(1, 2**40, 0, 0), extents=(Extent(0, BULK_JOB_BYTES + 1),))
    with pytest.raises(ValueError, match="BULK_JOB_BYTES"):
        await process.run([big])
    assert process.pid is None


@in_trio
async def test_only_the_socket_is_inherited_and_interrupts_are_ignored(export: Path, data: Path) -> None:
    with serving(export) as server, open("/dev/null", "rb") as inheritable:
        os.set_inheritable(inheritable.fileno(), True)  # as a mount's descriptor might be
        async with bulk(str(server.address), data) as process:
            await process.run([job(export, data, "file")])
            assert process.pid is not None
            links = Path(f"/proc/{process.pid}/fd").iterdir()
            opened = {int(link.name): os.readlink(link) for link in links}
            assert opened[0].startswith("socket:")
            assert inheritable.fileno() not in opened or opened[inheritable.fileno()] != "/dev/null"
            os.kill(process.pid, signal.SIGINT)
            (done,) = await process.run([job(export, data, "file")])
            assert done.error is None


OWNER = """
import sys, trio
from pathlib import Path
from voyfs.bulk import BulkProcess
from voyfs.core.entry import Version
from voyfs.core.extents import Extent
from voyfs.ports import FileJob

async def main():
    process = BulkProcess(sys.argv[1], Path(sys.argv[2]))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(process.run, [FileJob(b"f", 1, b"f", Version(1, 1, 1, 1), (Extent(0, 1),))])
        while process.pid is None:
            await trio.lowlevel.checkpoint()
        print(process.pid, flush=True)

trio.run(main)
"""


def start_owner(address: str, data: Path) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-c", OWNER, address, str(data)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


@in_trio
async def test_the_process_does_not_outlive_its_owner(data: Path) -> None:
    asked = threading.Semaphore(0)
    go_on = threading.Event()

    def answer(_: pb.FetchRequest) -> Sequence[pb.FetchReply]:
        asked.release()
        go_on.wait(30)
        return []

    with answering(stream(answer)) as address:
        with start_owner(address, data) as owner:
            try:
                assert owner.stdout is not None
                pid = int(owner.stdout.readline())
                await trio.to_thread.run_sync(asked.acquire, abandon_on_cancel=True)
                handle = os.pidfd_open(pid)  # readable when the process has ended
            finally:
                owner.kill()
                go_on.set()
        try:
            await trio.lowlevel.wait_readable(handle)
        finally:
            os.close(handle)


# What is said between the two


def test_messages_come_back_as_they_were() -> None:
    tls = TlsFiles(Path("c"), Path("k"), Path("a"))
    for setup in (
        Setup("h:1", None, None, Path("/data"), True),
        Setup("[::1]:1", tls, "name", Path("/d\udcff\n"), False, ("/a\n", "/\udcff")),
    ):
        assert decode_setup(encode_setup(setup)) == setup
    jobs = [
        FileJob(b"\xff\n\0", 1, b"a/b", Version(1, 2, -3, 4), (Extent(0, 1), Extent(5, 2**63 - 1))),
        FileJob(b"x", 2, b"y", VERSION, ()),
    ]
    assert decode_jobs(encode_jobs(7, jobs)) == (7, jobs)
    kinds: list[type[SourceError]] = [
        SourceUnreachable,
        SourceRefused,
        SourceChanged,
        SourceCorrupt,
        SourceMalformed,
        SourceUnreadable,
    ]
    errors: list[Exception | None] = [None, OSError(errno.ENOSPC, "full")]
    errors += [kind("why\n") for kind in kinds]
    number, told = decode_outcomes(encode_outcomes(9, [FileDone(error, 5, 6) for error in errors]))
    assert number == 9
    assert {(done.data_bytes, done.seed_bytes) for done in told} == {(5, 6)}
    assert [(type(done.error), str(done.error)) for done in told] == [(type(error), str(error)) for error in errors]
    for line in (encode_setup(setup), encode_jobs(1, jobs), encode_outcomes(1, told)):
        assert line.count(b"\n") == 1
        assert line.endswith(b"\n")


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[1]", b"[99,[]]", b"[1,[]]", b'[1,[["Evil",0,"x",1]]]', b"\xff", b"null"]
)
@in_trio
async def test_a_process_that_lost_its_mind_is_ended(line: bytes, data: Path) -> None:
    """Whatever it says, its owner lives."""
    program = f"import os, time; os.write(0, {line!r} + b'\\n'); os.read(0, 1); time.sleep(60)"
    with pytest.MonkeyPatch.context() as patch:
        real = subprocess.Popen

        def start(_: object, **options: Any) -> "subprocess.Popen[bytes]":
            return real([sys.executable, "-c", program], **options)

        patch.setattr(lane.subprocess, "Popen", start)  # type: ignore[attr-defined]
        process = BulkProcess("127.0.0.1:1", data)
        (done,) = await process.run([one(data)])
        assert isinstance(done.error, SourceUnreachable)
        await process.close()
