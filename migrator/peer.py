"""The other agent, over gRPC: what the source asks of the target (ports.Peer), and the target of the source.

It must not know what the words do.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc

from migrator import tls, wire
from migrator.core import limits
from migrator.core.address import join_address
from migrator.core.argv import Tls
from migrator.core.errors import PeerRefused, PeerUnreachable
from migrator.core.host import Needs
from migrator.core.identity import Identity
from migrator.core.phases import Hold, Outcome
from migrator.core.plan import ImagePiece, Options, Order, Progress
from migrator.core.prediction import Link
from migrator.core.preflight import TargetFacts
from migrator.generated import migrator_pb2 as pb
from migrator.generated.migrator_pb2_grpc import PeerStub
from migrator.ports import Report

T = TypeVar("T")

LINK_WORDS: Final = 3  # the first may have to wake somebody
# No link compresses it, and one piece is as good as many.
_FILLER: Final = os.urandom(limits.IMAGE_PIECE_BYTES)

# A link that is cut is noticed within KEEPALIVE + its timeout, though a dump is under way over it.
OPTIONS: Final = [
    ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
    ("grpc.max_send_message_length", limits.MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),  # 60 s unless set, and it counts for keepalive
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", int(limits.CONNECT_SECONDS * 1000)),  # of one try: 20 s unless set
    ("grpc.max_reconnect_backoff_ms", 1000),
]

_OUTCOMES: Final = {pb.COMMITTED: Outcome.COMMITTED, pb.ROLLED_BACK: Outcome.ROLLED_BACK}


class GrpcPeer:
    """See ports.Peer. One channel, kept for the whole migration."""

    def __init__(self, host: str, port: int, material: Tls | None) -> None:
        """Connects with the first call. Raises Insecure off loopback without TLS."""
        tls.require_secure(host, material)
        self._host, self._port, self._material = host, port, material
        self.address = join_address(host, port)
        if material is None:
            self._channel = grpc.insecure_channel(self.address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(self.address, tls.channel_credentials(material), OPTIONS)
        self._stub = PeerStub(self._channel)
        self._calls: set[grpc.Future[Any]] = set()

    def probe(self, container: str, identity: Identity | None, needs: Needs) -> TargetFacts:
        """See ports.Peer. It is the first call, and tells a refusal from a silence."""
        request = pb.ProbeRequest(
            container=container, identity=wire.identity_to_wire(identity), needs=wire.needs_to_wire(needs)
        )
        try:
            self._connect()
            return wire.facts_from_wire(self._call(self._stub.Probe, request, limits.PREPARE_SECONDS))
        except PeerUnreachable:
            if why := tls.refusal(self._host, self._port, self._material, limits.CONNECT_SECONDS):
                raise PeerRefused(
                    f"the agent at {self.address} and this one do not trust each other: {why}",
                    remedy="both need certificates that the same --ca has signed, bearing the names they are called by",
                ) from None
            raise

    def measure(self) -> Link:
        """See ports.Peer. As much as goes over in a fraction of a second, and the time until it was all there."""
        round_trip = min(self._timed(lambda: self.standing("")) for _ in range(LINK_WORDS))
        pieces = (pb.Filler(data=_FILLER) for _ in range(limits.LINK_BYTES // limits.IMAGE_PIECE_BYTES))
        sent: list[float] = []

        def timed() -> Iterator[pb.Filler]:
            start = time.monotonic()
            for piece in pieces:
                sent.append(time.monotonic())
                if sent[-1] - start > limits.LINK_SECONDS:
                    return
                yield piece

        self._call(self._stub.Measure, timed(), limits.CALL_SECONDS)
        took = time.monotonic() - sent[0] - round_trip
        return Link(len(sent) * limits.IMAGE_PIECE_BYTES / max(took, 1e-6), round_trip)

    def _timed(self, act: Callable[[], object]) -> float:
        start = time.monotonic()
        act()
        return time.monotonic() - start

    def prepare(self, order: Order) -> Report:
        """See ports.Peer."""
        message = self._call(self._stub.Prepare, wire.order_to_wire(order), limits.PREPARE_SECONDS)
        return wire.report_from_wire(message)

    def how_far(self, migration: str) -> Progress | None:
        """See ports.Peer."""
        reply = self._call(self._stub.HowFar, pb.Word(migration=migration), limits.CALL_SECONDS)
        return wire.progress_from_wire(reply.progress) if reply.HasField("progress") else None

    def freeze(self, migration: str, live: Sequence[str]) -> Report:
        """See ports.Peer."""
        request = pb.FreezeRequest(migration=migration, live=map(os.fsencode, live))
        return wire.report_from_wire(self._call(self._stub.Freeze, request, limits.FREEZE_SECONDS))

    def send(self, migration: str, pieces: Iterator[ImagePiece], *, compress: bool = False) -> Report:
        """See ports.Peer. An exception of PIECES comes out as itself."""
        failure: list[BaseException] = []

        def messages() -> Iterator[pb.ImagePiece]:
            try:
                for piece in pieces:
                    yield wire.piece_to_wire(migration, piece, compress=compress)
            except BaseException as error:  # gRPC would drop it, and only cancel the call
                failure.append(error)
                raise

        try:
            report = wire.report_from_wire(self._call(self._stub.Send, messages(), limits.RUNTIME_SECONDS))
        except BaseException:
            if failure:
                raise failure[0] from None
            raise
        return report

    def restore(self, migration: str, touched: Mapping[str, int], pages: str = "") -> Report:
        """See ports.Peer."""
        request = wire.restore_to_wire(migration, touched, pages)
        return wire.report_from_wire(self._call(self._stub.Restore, request, limits.RUNTIME_SECONDS))

    def commit(self, migration: str) -> Report:
        """See ports.Peer."""
        return self._word(self._stub.Commit, migration, limits.CALL_SECONDS + limits.HOOK_SECONDS)

    def pages(self, migration: str) -> Progress:
        """See ports.Peer."""
        reply = self._call(self._stub.Pages, pb.Word(migration=migration), limits.CALL_SECONDS)
        return wire.pages_from_wire(reply)

    def abort(self, migration: str) -> None:
        """See ports.Peer. It may have to wait until what is under way there has ended."""
        self._call(self._stub.Abort, pb.Word(migration=migration), limits.PREPARE_SECONDS)

    def hydrate(self, migration: str) -> Iterator[Progress]:
        """See ports.Peer."""
        try:
            for message in self._stub.Hydrate(pb.Word(migration=migration)):
                yield wire.progress_from_wire(message)
        except grpc.RpcError as error:
            raise wire.error_from_rpc(error, self.address) from None

    def verify(self, migration: str) -> None:
        """See ports.Peer."""
        self._call(self._stub.Verify, pb.Word(migration=migration), None)

    def detach(self, migration: str) -> None:
        """See ports.Peer."""
        self._call(self._stub.Detach, pb.Word(migration=migration), limits.PREPARE_SECONDS)

    def standing(self, migration: str) -> Hold:
        """See ports.Peer."""
        return Hold(self._call(self._stub.Standing, pb.Word(migration=migration), limits.CALL_SECONDS).hold)

    def outcome(self, migration: str) -> Outcome:
        """Asked by a target: what was decided?"""
        reply = self._call(self._stub.Outcome, pb.Word(migration=migration), limits.CALL_SECONDS)
        return _OUTCOMES.get(reply.outcome, Outcome.UNDECIDED)

    def give_back(self, migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        """See ports.AskingPeer."""
        try:
            for message in self._stub.GiveBack(wire.options_to_wire(migration, options)):
                yield wire.event_from_wire(message)
        except grpc.RpcError as error:
            raise wire.error_from_rpc(error, self.address) from None

    def cancel(self) -> None:
        """See ports.Peer."""
        for call in tuple(self._calls):
            call.cancel()

    def close(self) -> None:
        """See ports.Peer."""
        self._channel.close()

    def _connect(self) -> None:
        try:
            grpc.channel_ready_future(self._channel).result(limits.CONNECT_SECONDS)
        except grpc.FutureTimeoutError:
            raise PeerUnreachable(
                f"no agent answers at {self.address} within {limits.CONNECT_SECONDS:.0f} s",
                remedy="is 'migrator agent' running there, and the address right?",
            ) from None

    def _word(self, method: Callable[..., pb.Report], migration: str, seconds: float) -> Report:
        return wire.report_from_wire(self._call(method, pb.Word(migration=migration), seconds))

    def _call(self, method: Callable[..., T], request: Any, seconds: float | None) -> T:
        call = method.future(request, timeout=seconds)  # type: ignore[attr-defined]
        self._calls.add(call)
        try:
            answer: T = call.result()
            return answer
        except grpc.FutureCancelledError:
            raise PeerUnreachable(f"what was under way at {self.address} was cancelled") from None
        except grpc.RpcError as error:
            raise wire.error_from_rpc(error, self.address) from None
        finally:
            self._calls.discard(call)
