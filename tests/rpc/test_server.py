"""What the server does with requests that no honest client sends."""

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rpc.support import open_descriptors, serving
from voyfs.core.errors import ListenError
from voyfs.core.limits import (
    BULK_JOB_FILES,
    CHUNK,
    FETCH_BYTES,
    MESSAGE_BYTES,
    PATH_BYTES,
    PIECE_BYTES,
    REQUEST_EXTENTS,
    REQUEST_OFFERS,
    STAT_PATHS,
)
from voyfs.core.offers import DIGEST_BYTES
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.generated.voyfs_pb2_grpc import ExportStub
from voyfs.rpc.server import CONNECTIONS, BlockServer
from voyfs.rpc.service import DEMAND, STREAMS

DIGEST = bytes(DIGEST_BYTES)
UNARY = ("Attach", "Fetch", "Stat", "Release")
STREAMED = ("List", "Walk", "Digest")


@pytest.fixture
def channel(server: BlockServer) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(str(server.address), options) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> ExportStub:
    return ExportStub(channel)


def ask_raw(channel: grpc.Channel, method: str, request: bytes) -> bytes:
    """The first reply to a raw request."""
    path = f"/voyfs.v1.Export/{method}"
    if method in UNARY:
        once: Any = channel.unary_unary(path)
        reply: bytes = once(request, timeout=30)
        return reply
    if method in STREAMED:
        streamed: Any = channel.unary_stream(path)
        replies = streamed(request, timeout=30)
    else:
        both: Any = channel.stream_stream(path)
        replies = both(iter([request]), timeout=30)
    reply = next(replies)
    replies.cancel()
    return reply


def refusal(call: Callable[[], object]) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    failed: Any = caught.value
    code: grpc.StatusCode = failed.code()
    return code


def ranges(path: bytes = b"file", size: int = 300_000, *extents: tuple[int, int]) -> pb.FileRanges:
    return pb.FileRanges(
        path=path,
        version=pb.Version(size=size),
        extents=[pb.Extent(offset=offset, length=length) for offset, length in extents],
    )


@pytest.mark.parametrize("method", [*UNARY, *STREAMED, "Stream"])
def test_what_is_no_message_is_an_invalid_argument(channel: grpc.Channel, method: str) -> None:
    for garbage in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x0a\x05a", b"\x0a"):
        code = refusal(partial(ask_raw, channel, method, garbage))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(ExportStub(channel).Attach(pb.AttachRequest()).export_id) == 16


@pytest.mark.parametrize(
    "path",
    [
        b"..",
        b"../x",
        b"dir/../../x",
        b"/etc/passwd",
        b"/",
        b".",
        b"./file",
        b"dir/",
        b"dir//0",
        b"fi\0le",
        b"n" * 256,
        b"a/" * (PATH_BYTES // 2) + b"a",
    ],
)
def test_what_is_no_path_is_an_invalid_argument(stub: ExportStub, path: bytes) -> None:
    calls: list[Callable[[], object]] = [
        lambda: list(stub.List(pb.ListRequest(path=path))),
        lambda: list(stub.Walk(pb.WalkRequest(path=path))),
        lambda: list(stub.Digest(pb.DigestRequest(path=path))),
        lambda: stub.Stat(pb.StatRequest(paths=[b"file", path])),
        lambda: stub.Fetch(pb.FetchRequest(files=[ranges(path)])),
        lambda: list(stub.Stream(iter([pb.FetchRequest(files=[ranges(path)])]))),
    ]
    for call in calls:
        assert refusal(call) is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "files",
    [
        [ranges(b"file", 300_000, (0, 0))],
        [ranges(b"file", 300_000, (0, 300_001))],
        [ranges(b"file", 300_000, (100, 10), (105, 10))],
        [ranges(b"file", 300_000, (100, 10), (0, 10))],
        [ranges(b"file", 2**63, (0, 10))],
        [ranges(b"file", 2**63 - 1, (2**64 - 1, 1))],
        [ranges(b"file", 2**62, (0, FETCH_BYTES + 1))],
        [ranges(b"file", FETCH_BYTES, (0, FETCH_BYTES)), ranges(b"file", 1, (0, 1))],
        [ranges(b"file", 300_000, *((n, 1) for n in range(REQUEST_EXTENTS + 1)))],
        [ranges(b"file", 300_000)] * (BULK_JOB_FILES + 1),
    ],
    ids=range(10),
)
def test_impossible_ranges_are_an_invalid_argument(stub: ExportStub, files: list[pb.FileRanges]) -> None:
    request = pb.FetchRequest(id=7, files=files)
    assert refusal(lambda: stub.Fetch(request)) is grpc.StatusCode.INVALID_ARGUMENT
    code = refusal(lambda: list(stub.Stream(iter([request]))))
    assert code is grpc.StatusCode.INVALID_ARGUMENT


def offering(*offers: tuple[int, int, bytes]) -> pb.FileRanges:
    file = ranges(b"file", 300_000, (0, 100), (1000, 200_000))
    file.offers.extend(pb.Offer(offset=offset, length=length, digest=digest) for offset, length, digest in offers)
    return file


@pytest.mark.parametrize(
    "file",
    [
        offering((0, 0, DIGEST)),
        offering((99, 2, DIGEST)),
        offering((500, 1, DIGEST)),
        offering((201_000, 1, DIGEST)),
        offering((2**64 - 1, 2, DIGEST)),
        offering((1000, CHUNK + 1, DIGEST)),
        offering((1000, 10, DIGEST), (1009, 10, DIGEST)),
        offering((1000, 10, DIGEST), (1000, 11, DIGEST)),
        offering((1020, 10, DIGEST), (1000, 10, DIGEST)),
        offering((0, 100, DIGEST[:-1])),
        offering((0, 100, b"")),
        offering((0, 100, DIGEST + b"x")),
        offering(*[(0, 100, DIGEST)] * (REQUEST_OFFERS + 1)),
    ],
    ids=range(13),
)
def test_impossible_offers_are_an_invalid_argument(stub: ExportStub, file: pb.FileRanges) -> None:
    request = pb.FetchRequest(id=7, files=[file])
    assert refusal(lambda: stub.Fetch(request)) is grpc.StatusCode.INVALID_ARGUMENT
    assert refusal(lambda: list(stub.Stream(iter([request])))) is grpc.StatusCode.INVALID_ARGUMENT


def test_too_many_paths_are_an_invalid_argument(stub: ExportStub) -> None:
    request = pb.StatRequest(paths=[b"file"] * (STAT_PATHS + 1))
    assert refusal(lambda: stub.Stat(request)) is grpc.StatusCode.INVALID_ARGUMENT


def test_a_huge_request_is_refused_and_the_server_lives(channel: grpc.Channel, stub: ExportStub) -> None:
    huge = b"\x0a" * (MESSAGE_BYTES + 1)
    for method in (*UNARY, *STREAMED, "Stream"):
        code = refusal(partial(ask_raw, channel, method, huge))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert len(stub.Attach(pb.AttachRequest()).export_id) == 16


def test_an_unknown_method_is_unimplemented(channel: grpc.Channel) -> None:
    call: Any = channel.unary_unary("/voyfs.v1.Export/Write")
    assert refusal(lambda: call(b"")) is grpc.StatusCode.UNIMPLEMENTED


def test_one_bad_file_does_not_spoil_the_others(stub: ExportStub, export: Path) -> None:
    status = (export / "file").stat()
    version = pb.Version(
        inode=status.st_ino,
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        ctime_ns=status.st_ctime_ns,
    )
    good = pb.FileRanges(path=b"file", version=version, extents=[pb.Extent(offset=5, length=10)])
    request = pb.FetchRequest(id=9, files=[ranges(b"none"), good, ranges(b"dir", 10, (0, 1))])
    reply = stub.Fetch(request)
    assert (reply.id, reply.last) == (9, True)
    assert [(failure.file, failure.reason) for failure in reply.failures] == [
        (0, pb.MISSING),
        (2, pb.CHANGED),
    ]
    (piece,) = reply.pieces
    assert (piece.file, piece.offset, piece.length) == (1, 5, 10)
    assert reply.data == (export / "file").read_bytes()[5:15]


def test_replies_of_a_stream_are_bounded_and_in_order(stub: ExportStub, tmp_path: Path) -> None:
    with open(tmp_path / "export" / "big", "wb") as file:
        file.write(bytes(range(256)) * (4 * PIECE_BYTES // 256))
    (stated,) = stub.Stat(pb.StatRequest(paths=[b"big"])).stated
    requests = [
        pb.FetchRequest(
            id=number,
            files=[
                pb.FileRanges(
                    path=b"big",
                    version=stated.entry.version,
                    extents=[pb.Extent(offset=number * 1000, length=FETCH_BYTES)],
                )
            ],
        )
        for number in (1, 2, 3)
    ]
    replies = list(stub.Stream(iter(requests)))
    assert [reply.id for reply in replies if reply.last] == [1, 2, 3]
    assert [reply.id for reply in replies] == sorted(reply.id for reply in replies)
    for reply in replies:
        assert len(reply.data) <= PIECE_BYTES
    data = b"".join(reply.data for reply in replies if reply.id == 2)
    assert data == (tmp_path / "export" / "big").read_bytes()[2000 : 2000 + FETCH_BYTES]


def test_streams_that_are_held_open_leave_room_for_demand(server: BlockServer) -> None:
    """More streams than there are threads: demand is answered all the same."""
    queues: list[SimpleQueue[pb.FetchRequest | None]] = []
    channels: list[grpc.Channel] = []
    calls = []
    try:
        for _ in range(STREAMS):
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels.append(grpc.insecure_channel(str(server.address), options))
            queues.append(SimpleQueue())
            call = ExportStub(channels[-1]).Stream(iter(queues[-1].get, None))
            queues[-1].put(pb.FetchRequest(id=1))
            assert next(call).last  # it runs, and goes on
            calls.append(call)
        stub = ExportStub(channels[0])
        code = refusal(lambda: list(stub.Walk(pb.WalkRequest())))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        requests = [stub.Attach.future(pb.AttachRequest()) for _ in range(4 * DEMAND)]
        assert all(len(request.result(timeout=30).export_id) == 16 for request in requests)
        assert len(next(iter(stub.List(pb.ListRequest(path=b"dir")))).entries) == 20
        calls.pop().cancel()
        queues[-1].put(None)
    finally:
        for call in calls:
            call.cancel()
        for queue in queues:
            queue.put(None)
        for channel in channels:
            channel.close()
    with grpc.insecure_channel(str(server.address)) as fresh:
        pages = list(ExportStub(fresh).Walk(pb.WalkRequest()))
    assert {page.path for page in pages} == {b"", b"dir"}


def test_a_port_in_use_is_named(server: BlockServer, export: Path) -> None:
    with (
        pytest.raises(ListenError, match="Address already in use"),
        serving(export, listen=str(server.address)),
    ):
        pass
    with (
        pytest.raises(ListenError, match="Cannot assign"),
        serving(export, listen="192.0.2.1:0"),
    ):
        pass


def test_bytes_that_are_not_http2_do_no_harm(server: BlockServer, stub: ExportStub) -> None:
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00" + b"\0" * 500,
        b"\0" * 70000,
    ):
        with socket.create_connection((server.address.host, server.address.port)) as connection:
            try:
                connection.sendall(garbage)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass
            except OSError:
                pass  # it may hang up on us
    assert len(stub.Attach(pb.AttachRequest()).export_id) == 16


NUMBERS = st.one_of(st.integers(0, 300_001), st.integers(0, 2**64 - 1))
PATHS = st.one_of(
    st.sampled_from([b"", b"file", b"dir", b"dir/3", b"none"]),
    st.lists(
        st.sampled_from([b"..", b".", b"", b"dir", b"file", b"\xff", b"\0", b"etc", b"x" * 300]),
        max_size=5,
    ).map(b"/".join),
    st.binary(max_size=30),
)
REQUESTS = st.one_of(
    st.tuples(st.just("List"), st.builds(pb.ListRequest, path=PATHS, inode=NUMBERS)),
    st.tuples(st.just("Walk"), st.builds(pb.WalkRequest, path=PATHS, inode=NUMBERS)),
    st.tuples(st.just("Digest"), st.builds(pb.DigestRequest, path=PATHS)),
    st.tuples(st.just("Stat"), st.builds(pb.StatRequest, paths=st.lists(PATHS, max_size=4))),
    st.tuples(
        st.sampled_from(["Fetch", "Stream"]),
        st.builds(
            pb.FetchRequest,
            id=NUMBERS,
            files=st.lists(
                st.builds(
                    pb.FileRanges,
                    path=PATHS,
                    version=st.builds(pb.Version, size=NUMBERS, inode=NUMBERS),
                    extents=st.lists(st.builds(pb.Extent, offset=NUMBERS, length=NUMBERS), max_size=3),
                    offers=st.lists(
                        st.builds(
                            pb.Offer, offset=NUMBERS, length=NUMBERS, digest=st.sampled_from([DIGEST, b"", b"x" * 99])
                        ),
                        max_size=3,
                    ),
                ),
                max_size=3,
            ),
        ),
    ),
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(asked=REQUESTS, damage=st.one_of(st.none(), st.tuples(st.integers(0, 200), st.binary())))
def test_no_request_whatever_leads_outside_or_ends_the_server(
    channel: grpc.Channel, asked: tuple[str, Message], damage: tuple[int, bytes] | None
) -> None:
    method, request = asked
    raw = request.SerializeToString()
    if damage is not None:
        at, what = damage
        raw = raw[:at] + what + raw[at + len(what) :]
    try:
        reply = ask_raw(channel, method, raw)
    except grpc.RpcError as error:
        failed: Any = error
        assert failed.code() is grpc.StatusCode.INVALID_ARGUMENT
    else:
        assert b"root:x:0" not in reply


def test_descriptors_are_all_given_back(server: BlockServer, stub: ExportStub) -> None:
    stub.Attach(pb.AttachRequest())
    before = open_descriptors()
    for _ in range(3):
        list(stub.Walk(pb.WalkRequest()))
        list(stub.Digest(pb.DigestRequest()))
        stub.Stat(pb.StatRequest(paths=[b"file", b"none", b"dir/1"]))
        stub.Fetch(pb.FetchRequest(files=[ranges(b"file"), ranges(b"none"), ranges(b"dir")]))
    assert open_descriptors() == before


def test_connections_are_bounded(server: BlockServer) -> None:
    with ExitStack() as stack:
        connections = [
            stack.enter_context(socket.create_connection((server.address.host, server.address.port), timeout=30))
            for _ in range(CONNECTIONS + 10)
        ]
        greeted = 0
        for connection in connections:
            try:
                greeted += bool(connection.recv(1))  # SETTINGS come unasked
            except ConnectionResetError:
                pass
        assert greeted == CONNECTIONS
