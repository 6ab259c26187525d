"""`serve` as a program runs it: one line when ready, one line when it cannot."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from tests.rpc.support import in_trio, serving
from voyfs.certs import make_ca, make_host
from voyfs.core.errors import ExportError, InsecureError, ListenError
from voyfs.rpc.client import GrpcSource
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.generated.voyfs_pb2_grpc import ExportStub
from voyfs.serve import serve

PROGRAM = """
import sys
from voyfs.serve import serve
path, listen, until_released, ready = sys.argv[1:]
serve(path, listen, until_released=bool(until_released), ready_fd=int(ready) if ready else None)
"""


@contextmanager
def served(
    path: Path, *, until_released: bool = False, ready: int | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A serving process and the first line that it prints."""
    arguments = [str(path), "127.0.0.1:0", "yes" if until_released else "", str(ready or "")]
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=() if ready is None else (ready,),
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline()
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@in_trio
async def test_it_says_where_it_serves_and_ends_on_a_signal(export: Path, number: signal.Signals) -> None:
    with served(export) as (process, line):
        assert line.startswith(f"serving {export} on 127.0.0.1:")
        async with GrpcSource(line.split()[-1]) as source:
            assert (await source.attach()).root.is_directory
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
        assert process.returncode == 0


@in_trio
async def test_the_identity_outlives_a_restart(export: Path) -> None:
    identities = set()
    for _ in range(2):
        with served(export) as (_, line):
            async with GrpcSource(line.split()[-1]) as source:
                identities.add((await source.attach()).export_id)
    assert len(identities) == 1


@in_trio
async def test_it_can_end_with_the_release(export: Path) -> None:
    with served(export, until_released=True) as (process, line):
        async with GrpcSource(line.split()[-1]) as source:
            await source.attach()
            await source.release()
        assert process.wait(timeout=30) == 0


@in_trio
async def test_a_release_does_not_end_it_otherwise(export: Path) -> None:
    with served(export) as (process, line):
        async with GrpcSource(line.split()[-1]) as source:
            await source.release()
            await source.attach()
        assert process.poll() is None


def test_readiness_is_told_to_a_descriptor_too(export: Path) -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as pipe, served(export, ready=writing) as (process, line):
        os.close(writing)
        assert pipe.read().decode() == line  # to its end: the descriptor was closed
        process.terminate()


def test_what_stands_in_the_way_is_said_before_anything_is_printed(
    export: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    make_ca(tmp_path / "certs")
    tls = make_host(tmp_path / "certs", ["host"])
    tls.key.unlink()
    with serving(export) as server:
        cases: list[tuple[str, str, type[Exception], str]] = [
            (str(export), str(server.address), ListenError, "Address already in use"),
            (str(export), "0.0.0.0:0", InsecureError, "TLS is needed"),
            (str(export), "nonsense", ListenError, "not an address"),
            (str(export / "none"), "127.0.0.1:0", ExportError, "No such file"),
            (str(export / "file"), "127.0.0.1:0", ExportError, "not a directory"),
        ]
        for path, listen, error, message in cases:
            with pytest.raises(error, match=message) as caught:
                serve(path, listen)
            assert "\n" not in str(caught.value)
    with pytest.raises(InsecureError, match="cannot read"):
        serve(str(export), "0.0.0.0:0", tls=tls)
    assert capfd.readouterr() == ("", "")


def test_memory_stays_bounded_whatever_is_asked(export: Path) -> None:
    """Requests as large as may be, many at once, and streams that ask for much and read nothing."""
    (export / "large").write_bytes(b"x" * (32 << 20))
    with served(export) as (process, line):
        address = line.rstrip().rpartition(" on ")[2]
        status = Path(f"/proc/{process.pid}/status")
        with ExitStack() as stack:
            channels = [
                stack.enter_context(grpc.insecure_channel(address, options=[("number", number)])) for number in range(8)
            ]
            (found,) = ExportStub(channels[0]).Stat(pb.StatRequest(paths=[b"large"])).stated
            size = 2 << 20
            ranges = [pb.Extent(offset=offset, length=size) for offset in range(0, 32 << 20, size)]
            requests = [
                pb.FetchRequest(id=n, files=[pb.FileRanges(path=b"large", version=found.entry.version, extents=[one])])
                for n, one in enumerate(ranges)
            ]
            streams = [ExportStub(channel).Stream(iter(requests * 20)) for channel in channels for _ in range(2)]
            next(streams[0])  # they are under way
            garbage = b"\xff" * (4 << 20)
            asked = [
                channel.unary_unary("/voyfs.v1.Export/Stat").future(garbage) for channel in channels for _ in range(8)
            ]
            for call in asked:
                assert call.exception(timeout=60) is not None
            peak = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
            for stream in streams:
                stream.cancel()
        with grpc.insecure_channel(address) as fresh:
            assert len(ExportStub(fresh).Attach(pb.AttachRequest()).export_id) == 16
        # 10 GiB are asked for and not read, and 64 requests of 4 MiB may be under way
        assert peak < 600 << 10  # KiB
