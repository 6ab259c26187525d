"""`GrpcSource`: a `BlockSource` over gRPC.

Decides what is asked, how often, and what of the answer is believed. Knows nothing of stores or
of who reads.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any, Self, TypeVar

import grpc
import trio

from voyfs.core.entry import Entry, Version
from voyfs.core.errors import (
    SourceChanged,
    SourceCorrupt,
    SourceError,
    SourceMalformed,
    SourceRefused,
    SourceUnreachable,
)
from voyfs.core.extents import Extent
from voyfs.core.limits import (
    DEMAND_FETCHES,
    FETCH_BYTES,
    MIB,
    STAT_PATHS,
)
from voyfs.core.offers import Offer
from voyfs.ports import Attachment, Changed, Digested, InUse, Listing, Piece, Wanted
from voyfs.rpc.address import Address, parse_address
from voyfs.rpc.answers import pieces, stated
from voyfs.rpc.assembly import DigestMismatch
from voyfs.rpc.calls import CallFailed, Converter, StreamReader, unary
from voyfs.rpc.channel import open_channel
from voyfs.rpc.converters import ChangedSince, DigestedBelow, Listed, UsedBelow, Walked
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.generated.voyfs_pb2_grpc import ExportStub
from voyfs.rpc.loss import Patience, SourceLoss, lasting_error
from voyfs.rpc.reply import FETCH
from voyfs.rpc.restarting import RestartingStream
from voyfs.rpc.tls import TlsFiles, refusal
from voyfs.rpc.wire import (
    BadRequest,
    entry_from_wire,
    path_problem,
    ranges_from_wire,
    ranges_to_wire,
    shown,
)

_Item = TypeVar("_Item")
_Reply = TypeVar("_Reply")

# Keepalive notices a dead link far sooner; this is for a server that lives but does not answer.
_ATTEMPT_SECONDS = 30.0
_REFETCHES = 3
_LISTS = 8  # directories listed at once: a thread each
_STREAMS = 4  # walks, digests and working sets at once: a thread each
_HANDSHAKE_SECONDS = 5.0
_STAT_BYTES = 1 * MIB  # of paths in one request


class GrpcSource:
    """The export at HOST:PORT. Connects when first used; safe for many tasks of one trio run."""

    def __init__(
        self,
        address: str,
        *,
        tls: TlsFiles | None = None,
        server_name: str | None = None,
        loss: SourceLoss | None = None,
    ) -> None:
        """Raises ListenError, InsecureError. `server_name`: what its certificate must bear."""
        self._address: Address = parse_address(address)
        self._tls = tls
        self._server_name = server_name
        self._loss = loss or SourceLoss()
        self._reachable = False
        self._export_id = b""  # of the export that was attached to first
        self._closed = False
        # Two connections, so that no walk stands in front of what a reader waits for.
        self._demand_channel = open_channel(self._address, tls, server_name, bulk=False)
        self._background_channel = open_channel(self._address, tls, server_name, bulk=False)
        self._demand = ExportStub(self._demand_channel)
        self._fetch: Any = self._demand_channel.unary_unary(FETCH, pb.FetchRequest.SerializeToString)
        self._background = ExportStub(self._background_channel)
        self._fetches = trio.CapacityLimiter(DEMAND_FETCHES)
        self._lists = trio.CapacityLimiter(_LISTS)
        self._streams = trio.CapacityLimiter(_STREAMS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections; calls under way, and later ones, raise SourceUnreachable."""
        self._closed = True
        self._demand_channel.close()
        self._background_channel.close()

    @property
    def reachable(self) -> bool:
        return self._reachable

    async def attach(self) -> Attachment:
        return await self._believed(self._attach)

    async def _attach(self) -> Attachment:
        async def attempt(seconds: float) -> pb.AttachReply:
            try:
                return await unary(self._demand.Attach, pb.AttachRequest(), seconds)
            except CallFailed:
                await self._raise_refusal(seconds)
                raise

        reply = await self._persist(attempt)
        if len(reply.export_id) != 16:
            raise SourceMalformed("the source sent no identity of its export")
        if self._export_id not in (b"", reply.export_id):
            raise SourceChanged("another tree is exported at this address now")
        limits = reply.limits
        if limits.fetch_bytes < FETCH_BYTES or limits.stat_paths < STAT_PATHS:
            raise SourceRefused("the source's limits are lower than ours: another version?")
        root = entry_from_wire(reply.root, named=False)
        if not root.is_directory:
            raise SourceMalformed("the source's root is not a directory")
        self._export_id = reply.export_id
        return Attachment(reply.export_id, root)

    async def list_directory(self, path: bytes, inode: int) -> Listing:
        request = pb.ListRequest(path=_sound(path), inode=inode, export_id=self._export_id)

        async def attempt(seconds: float) -> Listing:
            listed = Listed(path, inode)
            with StreamReader(self._demand.List, request, listed, self._lists, seconds=seconds, most=1) as pages:
                for listing in await pages.batch() or ():
                    return listing
            raise SourceMalformed(f"the source left {shown(path)} unfinished")

        return await self._believed(lambda: self._persist(attempt))

    def walk(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[Listing]]:
        request = pb.WalkRequest(path=_sound(path), export_id=self._export_id)
        return self._restarting(self._background.Walk, request, lambda: Walked(path))

    def digest(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[Digested]]:
        """After a reconnect it starts again, so a Digested may come twice."""
        request = pb.DigestRequest(path=_sound(path))
        return self._restarting(self._background.Digest, request, lambda: DigestedBelow(path))

    def working_set(self, path: bytes, *, still: bool = False) -> AbstractAsyncContextManager[AsyncIterator[InUse]]:
        request = pb.WorkingSetRequest(path=_sound(path), export_id=self._export_id, still=still)
        return self._restarting(self._background.WorkingSet, request, lambda: UsedBelow(path), self._newer_failed)

    async def _newer_failed(self, failure: CallFailed, patience: Patience) -> None:
        """As `_failed`, of what servers of an earlier version do not know: then they have answered all the same."""
        try:
            await self._failed(failure, patience)
        finally:
            self._reachable |= failure.code is grpc.StatusCode.UNIMPLEMENTED

    async def fetch(
        self, path: bytes, version: Version, extents: Sequence[Extent], offers: Sequence[Offer] = ()
    ) -> list[Piece]:
        (found,) = await self.fetch_files([Wanted(path, version, tuple(extents), tuple(offers))])
        if isinstance(found, SourceError):
            raise found
        return found

    async def fetch_files(self, wanted: Sequence[Wanted]) -> list[list[Piece] | SourceError]:
        files = [ranges_to_wire(file.path, file.version, file.extents, file.offers) for file in wanted]
        request = pb.FetchRequest(id=1, files=files)
        try:
            ranges_from_wire(request)  # the caller's mistakes are not the source's to tell
        except BadRequest as error:
            raise ValueError(str(error)) from error

        async def attempt(seconds: float) -> bytes:
            return await unary(self._fetch, request, seconds)

        async def ask() -> list[list[Piece] | SourceError]:
            return pieces(await self._persist(attempt), wanted)

        async with self._fetches:
            return await self._believed(ask)

    async def stat(self, paths: Sequence[bytes]) -> list[Entry | None]:
        if len(paths) > STAT_PATHS:
            raise ValueError("more than STAT_PATHS in one stat")
        found: list[Entry | None] = []
        while len(found) < len(paths):
            batch: list[bytes] = []
            room = _STAT_BYTES
            for path in paths[len(found) :]:
                room -= len(path)
                if batch and room < 0:
                    break
                batch.append(_sound(path))
            found.extend(await self._believed(partial(self._stat, batch)))
        return found

    async def _stat(self, paths: Sequence[bytes]) -> list[Entry | None]:
        """Entries of the first of `paths`, as many as the source tells at once."""
        request = pb.StatRequest(paths=paths)

        async def attempt(seconds: float) -> pb.StatReply:
            return await unary(self._demand.Stat, request, seconds)

        reply = await self._persist(attempt)
        if not 0 < len(reply.stated) <= len(paths):
            raise SourceMalformed("the source told of more or fewer entries than asked for")
        return list(map(stated, reply.stated, paths))

    async def watch(self) -> bytes:
        _, mark = await self._changes(b"")
        if not mark:
            raise SourceMalformed("the source gave no mark")
        return mark

    async def changes(self, mark: bytes) -> Changed:
        if not mark:
            raise ValueError("no mark")
        changed, _ = await self._changes(mark)
        return changed

    async def _changes(self, mark: bytes) -> tuple[Changed, bytes]:
        request = pb.ChangesRequest(mark=mark, export_id=self._export_id)

        async def attempt(seconds: float) -> tuple[Changed, bytes]:
            converter = ChangedSince()
            with StreamReader(self._demand.Changes, request, converter, self._lists, seconds=seconds) as replies:
                for changed in await replies.batch() or ():
                    return changed, converter.mark
            raise SourceMalformed("the source left what has changed unfinished")

        return await self._persist(attempt, self._newer_failed)

    async def release(self) -> None:
        async def attempt(seconds: float) -> pb.ReleaseReply:
            return await unary(self._demand.Release, pb.ReleaseRequest(), seconds)

        await self._persist(attempt)

    async def _believed(self, ask: Callable[[], Awaitable[_Reply]]) -> _Reply:
        """What `ask` gives; asks a few times more where an answer was damaged on its way, or is a lie."""
        for left in reversed(range(1 + _REFETCHES)):
            try:
                return await ask()
            except DigestMismatch as error:
                if not left:
                    raise SourceCorrupt(f"the source's data is damaged: {error}") from error
            except SourceMalformed:
                if not left:
                    raise
        raise AssertionError("the last try returns or raises")

    async def _persist(
        self,
        attempt: Callable[[float], Awaitable[_Reply]],
        failed: Callable[[CallFailed, Patience], Awaitable[None]] | None = None,
    ) -> _Reply:
        """Tries until there is an answer, a lasting error, or no patience left."""
        patience = Patience(self._loss, _ATTEMPT_SECONDS)
        while True:
            self._require_open()
            try:
                reply = await attempt(patience.attempt_seconds())
            except CallFailed as failure:
                await (failed or self._failed)(failure, patience)
            except SourceError as error:
                self._reachable = not isinstance(error, SourceRefused)
                raise
            else:
                self._reachable = True
                return reply

    async def _failed(self, failure: CallFailed, patience: Patience) -> None:
        """Returns when it is time to try again; raises what the failure means otherwise."""
        self._require_open()
        lasting = lasting_error(failure.code, failure.details)
        self._reachable = lasting is not None and not isinstance(lasting, SourceRefused)
        if lasting is not None:
            raise lasting from failure
        await patience.pause(failure.code, failure.details)

    def _require_open(self) -> None:
        if self._closed:
            raise SourceUnreachable("the connection to the source was closed")

    async def _raise_refusal(self, seconds: float) -> None:
        """Raises SourceRefused where the failure to attach is one that waiting does not mend."""
        host, port = self._address.host, self._address.port
        name = self._server_name or host
        for _ in range(2):  # once may be a server that ends at this very moment
            reason = await trio.to_thread.run_sync(
                refusal,
                host,
                port,
                self._tls,
                name,
                min(seconds, _HANDSHAKE_SECONDS),
                abandon_on_cancel=True,
            )
            if reason is None:
                return
        raise SourceRefused(f"cannot attach to {self._address}: {reason}")

    @asynccontextmanager
    async def _restarting(
        self,
        method: Any,
        request: Any,
        converter: Callable[[], Converter[_Item]],
        failed: Callable[[CallFailed, Patience], Awaitable[None]] | None = None,
    ) -> AsyncIterator[AsyncIterator[_Item]]:
        def open_stream() -> StreamReader[_Item]:
            self._require_open()
            return StreamReader(method, request, converter(), self._streams)

        patience = Patience(self._loss, _ATTEMPT_SECONDS)
        stream = RestartingStream(open_stream, self._answered, failed or self._failed, patience)
        try:
            yield stream
        finally:
            stream.close()

    def _answered(self) -> None:
        self._reachable = True


def _sound(path: bytes) -> bytes:
    if (problem := path_problem(path)) is not None:
        raise ValueError(f"not a path of an export: {problem}")
    return path
