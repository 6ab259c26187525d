"""Answers other agents over gRPC: words for the holder, questions for the source's journal.

It must not know what the words do.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import structlog
from structlog.contextvars import bind_contextvars, clear_contextvars

from migrator import tls, wire
from migrator.core.address import join_address
from migrator.core.argv import Tls
from migrator.core.errors import CannotListen, Insecure, MigratorError
from migrator.core.phases import Outcome
from migrator.core.plan import Options
from migrator.generated import migrator_pb2 as pb
from migrator.generated.migrator_pb2_grpc import PeerServicer, add_PeerServicer_to_server
from migrator.holder import Holder
from migrator.peer import OPTIONS

log = structlog.get_logger(__name__)

# Each migration uses two calls at once at most, and a hydration or a way back holds one for its length; more wait their
# turn.
THREADS = 32
STOP_SECONDS = 2.0

OutcomeOf = Callable[[str], Outcome]
GiveBack = Callable[[str, Options], Iterator[Mapping[str, Any]]]
_OUTCOMES = {
    Outcome.UNDECIDED: pb.UNDECIDED,
    Outcome.COMMITTED: pb.COMMITTED,
    Outcome.ROLLED_BACK: pb.ROLLED_BACK,
}


class Servicer(PeerServicer):
    """See protos/migrator.proto."""

    def __init__(self, holder: Holder, outcome_of: OutcomeOf, give_back: GiveBack) -> None:
        """OUTCOME_OF answers a target's question from the source's journal; GIVE_BACK sends its container back."""
        self._holder = holder
        self._outcome_of = outcome_of
        self._give_back = give_back

    def Probe(self, request: pb.ProbeRequest, context: grpc.ServicerContext) -> pb.ProbeReply:
        identity = wire.identity_from_wire(request.identity) if request.HasField("identity") else None
        with _errors(context):
            needs = wire.needs_from_wire(request.needs)
            return wire.facts_to_wire(self._holder.probe(request.container, identity, needs))

    def Measure(self, request_iterator: Iterator[pb.Filler], context: grpc.ServicerContext) -> pb.Done:
        for _ in request_iterator:
            pass
        return pb.Done()

    def Prepare(self, request: pb.PrepareRequest, context: grpc.ServicerContext) -> pb.Report:
        with _errors(context, request.migration):
            return wire.report_to_wire(self._holder.prepare(wire.order_from_wire(request)))

    def HowFar(self, request: pb.Word, context: grpc.ServicerContext) -> pb.HowFarReply:
        with _errors(context, request.migration):
            progress = self._holder.how_far(request.migration)
            return pb.HowFarReply(progress=None if progress is None else wire.progress_to_wire(progress))

    def Freeze(self, request: pb.FreezeRequest, context: grpc.ServicerContext) -> pb.Report:
        with _errors(context, request.migration):
            return wire.report_to_wire(self._holder.freeze(request.migration, list(map(os.fsdecode, request.live))))

    def Send(self, request_iterator: Iterator[pb.ImagePiece], context: grpc.ServicerContext) -> pb.Report:
        first = next(request_iterator, None)
        with _errors(context, first.migration if first is not None else ""):
            if first is None:
                raise MigratorError("no image was sent")
            messages = itertools.chain([first], request_iterator)
            return wire.report_to_wire(
                self._holder.receive(first.migration, (wire.piece_from_wire(message) for message in messages))
            )

    def Restore(self, request: pb.RestoreRequest, context: grpc.ServicerContext) -> pb.Report:
        with _errors(context, request.migration):
            return wire.report_to_wire(
                self._holder.restore(request.migration, wire.touched_from_wire(request), request.pages)
            )

    def Commit(self, request: pb.Word, context: grpc.ServicerContext) -> pb.Report:
        with _errors(context, request.migration):
            return wire.report_to_wire(self._holder.commit(request.migration))

    def Pages(self, request: pb.Word, context: grpc.ServicerContext) -> pb.PagesReply:
        with _errors(context, request.migration):
            return wire.pages_to_wire(self._holder.pages(request.migration))

    def Abort(self, request: pb.Word, context: grpc.ServicerContext) -> pb.Done:
        with _errors(context, request.migration):
            self._holder.abort(request.migration)
            return pb.Done()

    def Hydrate(self, request: pb.Word, context: grpc.ServicerContext) -> Iterator[pb.Progress]:
        with _errors(context, request.migration):
            for progress in self._holder.hydrate(request.migration):
                yield wire.progress_to_wire(progress)

    def Verify(self, request: pb.Word, context: grpc.ServicerContext) -> pb.Done:
        with _errors(context, request.migration):
            self._holder.verify(request.migration)
            return pb.Done()

    def Detach(self, request: pb.Word, context: grpc.ServicerContext) -> pb.Done:
        with _errors(context, request.migration):
            self._holder.detach(request.migration)
            return pb.Done()

    def Standing(self, request: pb.Word, context: grpc.ServicerContext) -> pb.StandingReply:
        with _errors(context, request.migration):
            return pb.StandingReply(hold=self._holder.standing(request.migration))

    def Outcome(self, request: pb.Word, context: grpc.ServicerContext) -> pb.OutcomeReply:
        with _errors(context, request.migration):
            return pb.OutcomeReply(outcome=_OUTCOMES[self._outcome_of(request.migration)])

    def GiveBack(self, request: pb.GiveBackRequest, context: grpc.ServicerContext) -> Iterator[pb.Event]:
        with _errors(context, request.migration):
            for event in self._give_back(request.migration, wire.options_from_wire(request)):
                yield wire.event_to_wire(event)


@contextmanager
def _errors(context: grpc.ServicerContext, migration: str = "") -> Iterator[None]:
    """What we raise becomes a status with the error's parts in metadata; what is logged meanwhile names MIGRATION."""
    clear_contextvars()  # the thread served others before
    if migration:
        bind_contextvars(migration=migration)
    try:
        yield
    except MigratorError as error:
        log.info("refused", error=error.message, kind=error.kind)
        _abort(context, grpc.StatusCode.FAILED_PRECONDITION, error)
    except Exception as error:
        if not context.is_active():
            raise  # the caller hung up; nobody hears it
        log.exception("failed")
        _abort(context, grpc.StatusCode.INTERNAL, MigratorError(f"{type(error).__name__}: {error}"))


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, error: MigratorError) -> NoReturn:
    context.set_trailing_metadata(wire.error_to_metadata(error))
    context.abort(code, error.message)


def _try_address(host: str, port: int) -> None:
    """Raises CannotListen if HOST means no address that can be bound. gRPC says less, and writes lines of its own."""
    problem: OSError | None = None
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            try:
                with socket.socket(family, kind, protocol) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(place)
                return
            except OSError as error:
                problem = error
    except OSError as error:
        problem = error
    assert problem is not None
    known = {errno.EADDRINUSE: "it is in use", errno.EADDRNOTAVAIL: "it is not an address of this host"}
    why = known.get(problem.errno or 0) or problem.strerror or str(problem)
    raise CannotListen(f"cannot listen on {join_address(host, port)}: {why}", remedy="give another --listen")


class PeerServer:
    """The agent's door for other agents."""

    def __init__(self, host: str, port: int, material: Tls | None, servicer: Servicer) -> None:
        """Raises Insecure off loopback without TLS, CannotListen."""
        tls.require_secure(host, material)
        _try_address(host, port)
        self._server = grpc.server(
            ThreadPoolExecutor(THREADS, thread_name_prefix="peer"), options=[*OPTIONS, ("grpc.so_reuseport", 0)]
        )
        add_PeerServicer_to_server(servicer, self._server)
        address = join_address(host, port)
        try:
            if material is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, tls.server_credentials(material))
        except (RuntimeError, Insecure) as error:
            if isinstance(error, Insecure):
                raise
            raise CannotListen(f"cannot listen on {address}: in use, or not an address of this host") from error

    def start(self) -> None:
        """Answer."""
        self._server.start()

    def stop(self) -> None:
        """Answer no more; calls under way get a moment to end."""
        self._server.stop(STOP_SECONDS).wait()
