"""The client of the bulk lane: jobs in, one gRPC stream, checked bytes landed, outcomes out.

For a process of its own (`voyfs.bulk`): it blocks, and knows nothing of trio. Requests are
pipelined on the stream and answered in order. When it breaks, all that is under way fails with
what broke it; the next job opens a new one. Two threads: the caller of `submit`, and one that
receives.
"""

import threading
import time
from collections.abc import Callable, Sequence
from itertools import count
from queue import SimpleQueue
from typing import Any, Protocol

import grpc

from voyfs.core.errors import SourceCorrupt, SourceError, SourceMalformed, SourceUnreachable
from voyfs.core.extents import Extent
from voyfs.core.offers import Offer
from voyfs.core.packing import Packing
from voyfs.ports import FileDone, FileJob, Piece
from voyfs.rpc.assembly import DigestMismatch, FileAssembly
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.loss import lasting_error
from voyfs.rpc.reply import STREAM, contents, decode
from voyfs.rpc.wire import failure_error, ranges_to_wire

_REFETCHES = 3

Report = Callable[[int, Sequence[FileDone]], None]


class Target(Protocol):
    """An open backing file."""

    def write(self, piece: Piece, /) -> None:
        """Raises OSError."""

    def close(self) -> None: ...


class Landing(Protocol):
    """Where backing files are."""

    def open(self, job: FileJob, /) -> Target:
        """Raises OSError."""


class Offering(Protocol):
    """Who has bytes that need not be fetched, perhaps."""

    def offers(self, path: bytes, extents: Sequence[Extent], /) -> list[Offer]: ...


class _File:
    """One file of a request: what came of it so far."""

    def __init__(self, job: FileJob, offers: Sequence[Offer]) -> None:
        self.job = job
        self.offers = offers
        self.error: Exception | None = None  # a DigestMismatch means: once more
        self.received = 0
        self.taken = 0  # of what was offered
        self.spared = 0  # of what was received
        self.begin()

    def begin(self) -> None:
        """All of it is to come, now or once more."""
        self.assembly = FileAssembly(self.job.source, self.job.extents, self.offers)


class _Run:
    """The jobs of one number; their files are asked for until each has an outcome."""

    def __init__(self, number: int, jobs: Sequence[FileJob], seeds: Offering) -> None:
        self.number = number
        self.files = [_File(job, seeds.offers(job.source, job.extents)) for job in jobs]
        self.tries = 0

    def pending(self) -> list[_File]:
        """The files to ask for, now or again."""
        if self.tries > _REFETCHES:
            for file in self.files:
                if isinstance(file.error, DigestMismatch):
                    file.error = SourceCorrupt(f"the source's data is damaged: {file.error}")
        pending = []
        for file in self.files:
            if isinstance(file.error, DigestMismatch):
                file.error = None
                file.begin()
            if file.error is None and not file.assembly.complete:
                pending.append(file)
        return pending

    def outcomes(self) -> list[FileDone]:
        return [FileDone(file.error, file.received, file.taken, file.spared) for file in self.files]


class _Request:
    """Files asked for in one message, whose replies arrive in order."""

    def __init__(self, run: _Run, files: list[_File], *, packed: bool) -> None:
        """`packed`: so it is asked for."""
        self.run = run
        self.packed = packed
        self.asked = time.monotonic()
        self.received = 0  # bytes of data, as they are in their files
        self._files = files
        self._current = 0
        self._target: Target | None = None

    def message(self, number: int) -> pb.FetchRequest:
        asked = [(file.job, file.offers) for file in self._files]
        return pb.FetchRequest(
            id=number,
            packed=self.packed,
            files=[ranges_to_wire(job.source, job.version, job.extents, offers) for job, offers in asked],
        )

    def accept(self, reply: pb.FetchReply, data: memoryview, landing: Landing) -> None:
        """Lands the pieces of a reply. Raises SourceMalformed."""
        for failure in reply.failures:
            file = self._file(failure.file)
            file.error = failure_error(failure, file.job.source)
        for piece, part in contents(reply, data):
            if piece.file != self._current:
                self._leave()
                if piece.file < self._current:
                    raise SourceMalformed("the source sent files out of order")
                self._current = piece.file
            file = self._file(piece.file)
            if file.error is None:
                self._land(file, piece, part, landing)
        if reply.last:
            self._leave()
            for file in self._files:
                if file.error is None and not file.assembly.complete:
                    raise SourceMalformed("the source left a file unfinished")

    def fail(self, error: Exception) -> None:
        self._leave()
        for file in self._files:
            if file.error is None and not file.assembly.complete:
                file.error = error

    def _file(self, index: int) -> _File:
        if index >= len(self._files):
            raise SourceMalformed("the source sent a file not asked for")
        return self._files[index]

    def _land(self, file: _File, wire: pb.Piece, data: memoryview, landing: Landing) -> None:
        try:
            piece = file.assembly.accept(wire, data)
            if piece.data is None:
                return
            file.received += piece.sent
            self.received += piece.sent
            file.taken += piece.length - piece.sent
            file.spared += piece.spared
            if self._target is None:
                self._target = landing.open(file.job)
            self._target.write(piece)
        except (DigestMismatch, OSError) as error:
            file.error = error

    def _leave(self) -> None:
        if self._target is not None:
            self._target.close()
            self._target = None


class BulkStream:
    """Carries out runs of jobs; `report` is called with the outcomes, from either thread."""

    def __init__(self, channel: grpc.Channel, landing: Landing, seeds: Offering, report: Report) -> None:
        self._stream: Any = channel.stream_stream(STREAM, pb.FetchRequest.SerializeToString)
        self._landing = landing
        self._seeds = seeds
        self._report = report
        self._numbers = count(1)
        self._packing = Packing()
        self._answered = 0.0  # when the last request was
        # Guards the two below: a request is either in `_requests` of a living stream, or it has
        # been failed.
        self._lock = threading.Lock()
        self._requests: dict[int, _Request] = {}
        self._queue: SimpleQueue[pb.FetchRequest | None] | None = None

    def submit(self, number: int, jobs: Sequence[FileJob]) -> None:
        self._go_on(_Run(number, jobs, self._seeds))

    def _go_on(self, run: _Run) -> None:
        """Asks for what is still missing, or reports."""
        pending = run.pending()
        if not pending:
            self._report(run.number, run.outcomes())
            return
        run.tries += 1
        request = _Request(run, pending, packed=self._packing.asked)
        with self._lock:
            number = next(self._numbers)
            self._requests[number] = request
            if self._queue is None:
                self._queue = SimpleQueue()
                threading.Thread(target=self._receive, args=(self._queue,), daemon=True).start()
            self._queue.put(request.message(number))

    def _receive(self, queue: "SimpleQueue[pb.FetchRequest | None]") -> None:
        """Receives all replies of one stream; runs until it breaks."""
        call = self._stream(iter(queue.get, None))
        error: SourceError = SourceUnreachable("the source closed the stream")
        try:
            for message in call:
                self._accept(message)
        except grpc.RpcError:
            details = call.details()
            error = lasting_error(call.code(), details) or SourceUnreachable(
                f"the source does not answer: {details or 'no reason given'}"
            )
        except SourceMalformed as malformed:
            error = malformed
        call.cancel()
        queue.put(None)  # lets gRPC's sender end
        with self._lock:
            broken = list(self._requests.values())
            self._requests.clear()
            self._queue = None
        for request in broken:
            request.fail(error)
            self._report(request.run.number, request.run.outcomes())

    def _accept(self, message: bytes) -> None:
        reply, data = decode(message)
        request = self._requests.get(reply.id)
        if request is None:
            raise SourceMalformed("the source answered what nobody asked")
        request.accept(reply, data, self._landing)
        if reply.last:
            with self._lock:
                del self._requests[reply.id]
            now = time.monotonic()
            self._packing.took(request.packed, request.received, now - max(request.asked, self._answered))
            self._answered = now
            self._go_on(request.run)
