"""The methods of the Export service, answered from a `Tree`.

It keeps no state between requests, trusts nothing in them, and bounds everything a client can
make it hold. What fails for one file is said in the reply; a request that no honest client
sends raises BadRequest.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import grpc
import xxhash
import zstandard

from voyfs.core.limits import (
    FETCH_BYTES,
    MESSAGE_BYTES,
    PAGE_BYTES,
    PIECE_BYTES,
    STAT_PATHS,
)
from voyfs.core.offers import digest_of, offered_parts
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.pages import changed_pages, digests, failure_to_wire, pages, walk
from voyfs.rpc.reader import Run, open_file
from voyfs.rpc.reply import encode
from voyfs.rpc.tracker import Tracker, Untold
from voyfs.rpc.tree import Tree, TreeError, Trouble
from voyfs.rpc.wire import (
    BadRequest,
    Ranges,
    entry_to_wire,
    path_problem,
    ranges_from_wire,
)
from voyfs.rpc.workingset import working_set

# Streams hold a thread for as long as the client likes, so they get at most their share, and
# demand calls always find a free one. A client uses one Stream and one Walk or Digest.
STREAMS = 16
LISTS = 12
DEMAND = 12
THREADS = STREAMS + LISTS + DEMAND

# Packing: the fastest level that deserves the name; nothing that a frame's own few bytes would eat up, and nothing for
# whose sake the other side would unpack in vain.
_LEVEL = 1
_WORTH_PACKING = 1024
_GAIN = 0.9


class ExportService:
    """The methods of the Export service. Threads of the server's pool run them."""

    def __init__(self, tree: Tree, on_release: Callable[[], None]) -> None:
        self._tree = tree
        self._on_release = on_release
        self._tracker = Tracker(tree.root)
        self._streams = threading.BoundedSemaphore(STREAMS)
        self._lists = threading.BoundedSemaphore(LISTS)

    def close(self) -> None:
        self._tracker.close()

    def attach(self, _: pb.AttachRequest, context: grpc.ServicerContext) -> pb.AttachReply:
        try:
            root = self._tree.stat(b"")
        except TreeError as error:
            context.abort(grpc.StatusCode.INTERNAL, f"the export's root: {error}")
        limits = pb.Limits(fetch_bytes=FETCH_BYTES, message_bytes=MESSAGE_BYTES, stat_paths=STAT_PATHS)
        return pb.AttachReply(export_id=self._tree.export_id, root=entry_to_wire(root), limits=limits)

    def list_directory(self, request: pb.ListRequest, context: grpc.ServicerContext) -> Iterator[pb.Listing]:
        _check_path(request.path)
        with _share(self._lists, context):
            if self._is_foreign(request):
                yield _foreign(request.path)
            else:
                yield from pages(self._tree, request.path, request.inode)

    def walk(self, request: pb.WalkRequest, context: grpc.ServicerContext) -> Iterator[pb.Listing]:
        _check_path(request.path)
        with _share(self._streams, context):
            if self._is_foreign(request):
                yield _foreign(request.path)
            else:
                yield from walk(self._tree, request.path, request.inode)

    def _is_foreign(self, request: pb.ListRequest | pb.WalkRequest | pb.WorkingSetRequest | pb.ChangesRequest) -> bool:
        """Whether the client attached to another export, which was served at this address before."""
        return request.export_id not in (b"", self._tree.export_id)

    def digest(self, request: pb.DigestRequest, context: grpc.ServicerContext) -> Iterator[pb.DigestReply]:
        _check_path(request.path)
        with _share(self._streams, context):
            yield from digests(self._tree, request.path, context.is_active)

    def working_set(self, request: pb.WorkingSetRequest, context: grpc.ServicerContext) -> Iterator[pb.WorkingSetReply]:
        _check_path(request.path)
        with _share(self._streams, context):
            if not self._is_foreign(request):
                yield from working_set(self._tree, request.path, context.is_active, still=request.still)

    def changes(self, request: pb.ChangesRequest, context: grpc.ServicerContext) -> Iterator[pb.ChangesReply]:
        with _share(self._lists, context):
            try:
                if self._is_foreign(request):
                    raise Untold("another tree is exported at this address now")
                if not request.mark:
                    yield pb.ChangesReply(mark=self._tracker.begin(), last=True)
                    return
                touched, inodes = self._tracker.end(request.mark)
            except Untold as error:
                yield pb.ChangesReply(unknown=str(error), last=True)
                return
            yield from changed_pages(touched, inodes)

    def fetch(self, request: pb.FetchRequest, _: grpc.ServicerContext) -> bytes:
        (reply,) = self._replies(request, FETCH_BYTES)
        return reply

    def stream(self, requests: Iterator[pb.FetchRequest], context: grpc.ServicerContext) -> Iterator[bytes]:
        with _share(self._streams, context):
            for request in requests:
                yield from self._replies(request, PIECE_BYTES)

    def stat(self, request: pb.StatRequest, _: grpc.ServicerContext) -> pb.StatReply:
        if len(request.paths) > STAT_PATHS:
            raise BadRequest(f"more than {STAT_PATHS} paths")
        for path in request.paths:
            _check_path(path)
        reply = pb.StatReply()
        size = 0
        for path in request.paths:
            try:
                stated = pb.Stated(entry=entry_to_wire(self._tree.stat(path)))
            except TreeError as error:
                stated = pb.Stated(failure=failure_to_wire(error))
            reply.stated.append(stated)
            size += stated.ByteSize()
            if size >= PAGE_BYTES:
                break
        return reply

    def release(self, _: pb.ReleaseRequest, context: grpc.ServicerContext) -> pb.ReleaseReply:
        # Only once the answer is out: whoever is told may stop the server.
        context.add_callback(self._on_release)
        return pb.ReleaseReply()

    def _replies(self, request: pb.FetchRequest, batch: int) -> Iterator[bytes]:
        """Replies to one request, each with up to `batch` bytes of data; the last has `last`."""
        reply = pb.FetchReply(id=request.id)
        packer = zstandard.ZstdCompressor(level=_LEVEL) if request.packed else None
        data: list[bytes | memoryview] = []
        size = 0
        for index, asked in enumerate(ranges_from_wire(request)):
            try:
                for run in self._runs(asked):
                    if size and run.sent and size + run.sent > batch:
                        yield encode(reply, data)
                        reply = pb.FetchReply(id=request.id)
                        data = []
                        size = 0
                    piece = _add_piece(reply, index, run)
                    if run.data is not None and run.sent:
                        data.append(_packed(piece, run.data, packer) if packer else run.data)
                        size += run.sent
            except TreeError as error:
                reply.failures.append(failure_to_wire(error, index))
        reply.last = True
        yield encode(reply, data)

    def _runs(self, asked: Ranges) -> Iterator[Run]:
        with open_file(self._tree, asked.path, asked.version) as file:
            for extent, offers in offered_parts(asked.extents, asked.offered):
                runs = file.runs(extent)
                yield from _compared(list(runs), asked.digests, offers) if offers else runs


def _foreign(path: bytes) -> pb.Listing:
    error = TreeError(Trouble.CHANGED, "another tree is exported at this address now")
    return pb.Listing(path=path, failure=failure_to_wire(error), last=True)


def _compared(runs: list[Run], digests: list[bytes], offers: range) -> list[Run]:
    """The `runs` of what was offered; where they are one that an offer has as well, that one says so."""
    run, *others = runs
    if others or run.data is None:  # with holes, which stay holes
        return runs
    digest = digest_of(run.data)
    return [replace(run, offer=next((index for index in offers if digests[index] == digest), None))]


def _add_piece(reply: pb.FetchReply, index: int, run: Run) -> pb.Piece:
    piece = reply.pieces.add(file=index, offset=run.start, length=run.length)
    if run.data is None:
        piece.hole = True
        return piece
    piece.xxh3 = xxhash.xxh3_64_intdigest(run.data)
    if run.offer is not None:
        piece.offer = 1 + run.offer
    return piece


def _packed(piece: pb.Piece, data: bytes | memoryview, packer: zstandard.ZstdCompressor) -> bytes | memoryview:
    """What to send of a piece: its data, or less, which it then says."""
    if len(data) < _WORTH_PACKING:
        return data
    frame = packer.compress(data)
    if len(frame) > len(data) * _GAIN:
        return data
    piece.packed = len(frame)
    return frame


def _check_path(path: bytes) -> None:
    if (problem := path_problem(path)) is not None:
        raise BadRequest(problem)


@contextmanager
def _share(slots: threading.BoundedSemaphore, context: grpc.ServicerContext) -> Iterator[None]:
    """Holds one of `slots`, or ends the call."""
    if not slots.acquire(blocking=False):
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many streams at once")
    try:
        yield
    finally:
        slots.release()
