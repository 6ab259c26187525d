"""What the tests of the wire share: running trio, servers, a relay whose link can be cut."""

import ctypes
import functools
import os
import selectors
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import grpc
import trio
import xxhash

from voyfs.core.entry import Entry
from voyfs.core.extents import Extent
from voyfs.handshake import FILE_SYSTEM
from voyfs.mounts import mounts
from voyfs.ports import BlockSource, Piece
from voyfs.rpc.address import parse_address
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.server import BlockServer
from voyfs.rpc.tls import TlsFiles
from voyfs.rpc.tree import Tree

P = ParamSpec("P")
T = TypeVar("T")

_SECONDS = 60  # the bound of a test that hangs; nothing waits for it


def in_trio(test: Callable[P, Awaitable[None]]) -> Callable[P, None]:
    """Makes an ordinary test of an async one."""

    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        async def bounded() -> None:
            with trio.fail_after(_SECONDS):
                await test(*args, **kwargs)

        trio.run(bounded)

    return run


@contextmanager
def serving(path: Path, *, listen: str = "127.0.0.1:0", tls: TlsFiles | None = None) -> Iterator[BlockServer]:
    """A server of `path` within the block."""
    tree = Tree(os.fsencode(path))
    try:
        server = BlockServer(tree, parse_address(listen), tls=tls)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        tree.close()


@contextmanager
def answering(methods: dict[str, Callable[[bytes], Sequence[bytes]]]) -> Iterator[str]:
    """A faulty server's address: each method is given a request and says the replies, raw."""

    def streaming(
        answer: Callable[[bytes], Sequence[bytes]],
    ) -> Any:
        def handle(request: bytes, _: grpc.ServicerContext) -> Iterator[bytes]:
            yield from answer(request)

        return grpc.unary_stream_rpc_method_handler(handle)

    def both(answer: Callable[[bytes], Sequence[bytes]]) -> Any:
        def handle(requests: Iterator[bytes], _: grpc.ServicerContext) -> Iterator[bytes]:
            for request in requests:
                yield from answer(request)

        return grpc.stream_stream_rpc_method_handler(handle)

    def once(answer: Callable[[bytes], Sequence[bytes]]) -> Any:
        def handle(request: bytes, _: grpc.ServicerContext) -> bytes:
            (reply,) = answer(request)
            return reply

        return grpc.unary_unary_rpc_method_handler(handle)

    kinds = {"WorkingSet": streaming, "List": streaming, "Walk": streaming, "Digest": streaming, "Stream": both}
    handlers = {name: kinds.get(name, once)(answer) for name, answer in methods.items()}
    server = grpc.server(
        ThreadPoolExecutor(8),
        handlers=[grpc.method_handlers_generic_handler("voyfs.v1.Export", handlers)],
        options=[("grpc.max_send_message_length", -1)],
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


Part = tuple[pb.Piece, bytes]


def part(start: int, data: bytes, **changes: object) -> Part:
    """A sound piece and its data, but for `changes`."""
    sound = pb.Piece(offset=start, length=len(data), xxh3=xxhash.xxh3_64_intdigest(data))
    for name, value in changes.items():
        setattr(sound, name, value)
    return sound, data


def fetched(*parts: Part, id: int = 1, last: bool = True) -> pb.FetchReply:
    """A reply of `parts`."""
    pieces = [piece for piece, _ in parts]
    return pb.FetchReply(data=b"".join(data for _, data in parts), id=id, pieces=pieces, last=last)


def joined(pieces: Sequence[Piece]) -> bytes:
    """The bytes of pieces that follow each other, holes as zeros."""
    return b"".join(bytes(p.length) if p.data is None else p.data for p in pieces)


async def entry_at(source: BlockSource, path: bytes) -> Entry:
    (entry,) = await source.stat([path])
    assert entry is not None
    return entry


async def whole(source: BlockSource, path: bytes) -> bytes:
    """The content of a file of at most FETCH_BYTES."""
    entry = await entry_at(source, path)
    return joined(await source.fetch(path, entry.version, [Extent(0, entry.size)]))


def keep_cached(path: Path, extents: Sequence[Extent]) -> None:
    """Makes of a file on a disk that the page cache holds these extents of it and no more."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)  # what is not written yet cannot be dropped
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # nothing is read ahead
        for extent in extents:
            os.pread(file, extent.length, extent.start)
    finally:
        os.close(file)


def open_descriptors() -> list[str]:
    """What this process has open, except for what the listing itself needs."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            pass
    return sorted(found)


def in_mount_namespace(action: Callable[[], T]) -> T:
    """Runs `action` in a thread with mounts of its own, which end with it. Needs root."""
    result: list[Any] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(0x00020000) != 0:  # CLONE_NEWNS
                raise OSError(ctypes.get_errno(), "unshare")
            mount(b"none", b"/", None, 0x4000 | 0x40000)  # MS_REC | MS_PRIVATE
            for path, kind, _ in mounts():  # a copy would keep another test's mount from ending
                if kind == FILE_SYSTEM:
                    libc.umount2(os.fsencode(path), 2)  # MNT_DETACH
            result.extend((action(), None))
        except BaseException as error:
            result.extend((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    value, error = result
    if error is not None:
        raise error
    return value  # type: ignore[no-any-return]


def mount(what: bytes, where: bytes, kind: bytes | None, flags: int, data: bytes = b"") -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(what, where, kind, flags, data) != 0:
        raise OSError(ctypes.get_errno(), f"mount {where!r}")


class Relay:
    """A TCP relay on loopback. Cut, it forwards nothing and says nothing, like a dead link.

    New connections are taken even then (`knocks` is released once for each), but stay silent.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._selector = selectors.DefaultSelector()
        self._wake, waker = socket.socketpair()
        self._waker = waker
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._cut = False
        self._over = False
        self.knocks = threading.Semaphore(0)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def cut(self) -> None:
        """From now on nothing passes; what is on its way is lost with its connection."""
        self._cut = True
        self._waker.send(b"x")

    def mend(self) -> None:
        """New connections pass again; those of the cut stay dead, as after a reboot between."""
        self._cut = False
        self._waker.send(b"x")

    def close(self) -> None:
        self._over = True
        self._waker.send(b"x")
        self._thread.join()
        for end in (self._listener, self._wake, self._waker, *self._pairs):
            end.close()
        self._selector.close()

    def _run(self) -> None:
        silent: list[socket.socket] = []
        while not self._over:
            for key, _ in self._selector.select():
                end = key.fileobj
                assert isinstance(end, socket.socket)
                if end is self._wake:
                    end.recv(64)
                    if self._cut:
                        for dead in self._pairs:
                            self._selector.unregister(dead)
                        silent.extend(self._pairs)
                        self._pairs.clear()
                elif end is self._listener:
                    client, _ = end.accept()
                    self.knocks.release()
                    if self._cut:
                        silent.append(client)
                    else:
                        self._pair(client, socket.create_connection(self._target))
                elif end in self._pairs:
                    self._forward(end)
        for dead in silent:
            dead.close()

    def _pair(self, one: socket.socket, other: socket.socket) -> None:
        for end, far in ((one, other), (other, one)):
            self._pairs[end] = far
            self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        far = self._pairs[end]
        try:
            data = end.recv(1 << 16)
            if data:
                far.sendall(data)
                return
        except OSError:
            pass
        for done in (end, far):
            self._selector.unregister(done)
            del self._pairs[done]
            done.close()
