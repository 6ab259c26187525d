"""Between the values of the core and the messages of protos/migrator.proto, both ways; and errors as metadata.

It must not know who calls whom.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import grpc
import zstandard

from migrator.core import limits
from migrator.core.errors import MigratorError, PeerRefused, PeerUnreachable, Refused, TransferFailed, by_kind
from migrator.core.hook import Mode
from migrator.core.host import Needs, Traits
from migrator.core.identity import Address, Identity, Route
from migrator.core.plan import ImagePiece, Options, Order, Progress
from migrator.core.preflight import HostFacts, TargetFacts
from migrator.core.timeline import Measured
from migrator.core.volumes import CHOICES, Volume
from migrator.generated import migrator_pb2 as pb
from migrator.ports import Report

KIND, REMEDY, LOG = "migrator-kind", "migrator-remedy-bin", "migrator-log-bin"


# Of Zstandard's levels the one that costs least: some 300 MB/s and core; and much memory compresses well.
COMPRESSION = 1


def identity_to_wire(identity: Identity | None) -> pb.Identity | None:
    """Absent stays absent."""
    if identity is None:
        return None
    return pb.Identity(
        namespace=identity.namespace,
        name=identity.name,
        mac=identity.mac,
        mtu=identity.mtu,
        addresses=[pb.Address(address=each.address, prefix=each.prefix) for each in identity.addresses],
        routes=[
            pb.Route(
                destination=each.destination,
                gateway=each.gateway,
                onlink=each.onlink,
                metric=each.metric,
                source=each.source,
            )
            for each in identity.routes
        ],
        port=identity.port,
        port_mac=identity.port_mac,
        bridge=identity.bridge,
        index=identity.index,
    )


def identity_from_wire(message: pb.Identity) -> Identity:
    """See `identity_to_wire`."""
    return Identity(
        namespace=message.namespace,
        name=message.name,
        mac=message.mac,
        mtu=message.mtu,
        addresses=tuple(Address(each.address, each.prefix) for each in message.addresses),
        routes=tuple(
            Route(each.destination, each.gateway, each.onlink, each.metric, each.source) for each in message.routes
        ),
        port=message.port,
        port_mac=message.port_mac,
        bridge=message.bridge,
        index=message.index,
    )


def order_to_wire(order: Order) -> pb.PrepareRequest:
    """Paths are bytes on the wire: a file's name need not be text."""
    return pb.PrepareRequest(
        migration=order.migration,
        container=order.container,
        config=json.dumps(order.config).encode(),
        identity=identity_to_wire(order.identity),
        export=order.export,
        volumes=[json.dumps(volume.to_json()).encode() for volume in order.volumes],
        volume_exports=order.volume_exports,
        network=order.network,
        seeds=map(os.fsencode, order.seeds),
        memory_follows=order.memory_follows,
        warm=order.warm,
        fetch=map(os.fsencode, order.fetch),
        look_up=map(os.fsencode, order.look_up),
        files=order.files,
        pipes=order.pipes,
        image_bytes=order.image_bytes,
        source_agent=order.source_agent,
    )


def order_from_wire(message: pb.PrepareRequest) -> Order:
    """See `order_to_wire`."""
    return Order(
        migration=message.migration,
        container=message.container,
        config=json.loads(message.config),
        identity=identity_from_wire(message.identity) if message.HasField("identity") else None,
        export=message.export,
        volumes=tuple(Volume.from_json(json.loads(each)) for each in message.volumes),
        volume_exports=tuple(message.volume_exports),
        network=message.network,
        seeds=tuple(map(os.fsdecode, message.seeds)),
        memory_follows=message.memory_follows,
        warm=message.warm,
        fetch=tuple(map(os.fsdecode, message.fetch)),
        look_up=tuple(map(os.fsdecode, message.look_up)),
        files=dict(message.files),
        pipes=tuple(message.pipes),
        image_bytes=message.image_bytes,
        source_agent=message.source_agent,
    )


def needs_to_wire(needs: Needs) -> pb.Needs:
    """Only what the target looks at."""
    return pb.Needs(cpu=needs.cpu, paths=needs.paths)


def needs_from_wire(message: pb.Needs) -> Needs:
    """See `needs_to_wire`."""
    return Needs(cpu=message.cpu, paths=tuple(message.paths))


def _traits_to_wire(traits: Traits) -> pb.Traits:
    return pb.Traits(
        kernel=traits.kernel,
        architecture=traits.architecture,
        cgroups=traits.cgroups,
        security=traits.security,
        profiles=traits.profiles,
        seccomp=traits.seccomp,
        limits=traits.limits,
        raises_limits=traits.raises_limits,
        features=traits.features,
        wall=traits.wall,
        certificate_expires=traits.certificate_expires,
    )


def _traits_from_wire(message: pb.Traits) -> Traits:
    return Traits(
        kernel=message.kernel,
        architecture=message.architecture,
        cgroups=message.cgroups,
        security=tuple(message.security),
        profiles=tuple(message.profiles),
        seccomp=message.seccomp,
        limits=dict(message.limits),
        raises_limits=message.raises_limits,
        features=tuple(message.features),
        wall=message.wall,
        certificate_expires=message.certificate_expires,
    )


def facts_to_wire(facts: TargetFacts) -> pb.ProbeReply:
    """What a target says of itself."""
    return pb.ProbeReply(
        runtime=facts.host.runtime,
        runtime_program=facts.host.runtime_program,
        criu=facts.host.criu,
        criu_problem=facts.host.criu_problem,
        voyfs_problem=facts.host.voyfs_problem,
        memory_free=facts.host.memory_free,
        container_taken=facts.container_taken,
        directory=facts.directory,
        directory_taken=facts.directory_taken,
        namespace_taken=facts.namespace_taken,
        port_taken=facts.port_taken,
        bridge_present=facts.bridge_present,
        addresses_taken=facts.addresses_taken,
        disk_free=facts.disk_free,
        traits=_traits_to_wire(facts.host.traits),
        inodes_free=facts.inodes_free,
        cpu_problem=facts.cpu_problem,
        missing=facts.missing,
    )


def facts_from_wire(message: pb.ProbeReply) -> TargetFacts:
    """See `facts_to_wire`."""
    return TargetFacts(
        host=HostFacts(
            name="target",
            runtime=message.runtime,
            runtime_program=message.runtime_program,
            criu=message.criu,
            criu_problem=message.criu_problem,
            voyfs_problem=message.voyfs_problem,
            memory_free=message.memory_free,
            traits=_traits_from_wire(message.traits),
        ),
        container_taken=message.container_taken,
        directory=message.directory,
        directory_taken=message.directory_taken,
        namespace_taken=message.namespace_taken,
        port_taken=message.port_taken,
        bridge_present=message.bridge_present,
        addresses_taken=tuple(message.addresses_taken),
        disk_free=message.disk_free,
        inodes_free=message.inodes_free,
        cpu_problem=message.cpu_problem,
        missing=tuple(message.missing),
    )


def piece_to_wire(migration: str, piece: ImagePiece, *, compress: bool = False) -> pb.ImagePiece:
    """The name of the migration goes with each: it costs nothing beside the data."""
    return pb.ImagePiece(
        migration=migration,
        name=piece.name,
        offset=piece.offset,
        data=zstandard.compress(piece.data, COMPRESSION) if compress else piece.data,
        last=piece.last,
        digest=piece.digest,
        compressed=compress,
    )


def piece_from_wire(message: pb.ImagePiece) -> ImagePiece:
    """See `piece_to_wire`."""
    data = _decompressed(message) if message.compressed else message.data
    return ImagePiece(message.name, message.offset, data, message.last, message.digest)


def _decompressed(message: pb.ImagePiece) -> bytes:
    """Never more than a piece may hold, whatever the peer says; raises TransferFailed."""
    try:
        if zstandard.frame_content_size(message.data) > limits.IMAGE_PIECE_BYTES:
            raise TransferFailed(f"a piece of image {message.name} is larger than pieces are")
        return zstandard.ZstdDecompressor().decompress(message.data, limits.IMAGE_PIECE_BYTES)
    except zstandard.ZstdError as error:
        raise TransferFailed(f"a piece of image {message.name} cannot be decompressed: {error}") from error


def restore_to_wire(migration: str, touched: Mapping[str, int], pages: str) -> pb.RestoreRequest:
    """Paths are bytes, as in an order."""
    return pb.RestoreRequest(
        migration=migration,
        touched=[pb.Touched(path=os.fsencode(path), mtime_ns=time) for path, time in touched.items()],
        pages=pages,
    )


def touched_from_wire(message: pb.RestoreRequest) -> dict[str, int]:
    """See `restore_to_wire`."""
    return {os.fsdecode(each.path): each.mtime_ns for each in message.touched}


def report_to_wire(report: Report) -> pb.Report:
    """What was measured."""
    return pb.Report(
        steps=[
            pb.Step(name=step.name, offset=step.offset, seconds=step.seconds, bytes=step.bytes) for step in report.steps
        ],
        ago=report.ago,
        bytes=report.bytes,
        answered=report.answered,
    )


def report_from_wire(message: pb.Report) -> Report:
    """See `report_to_wire`."""
    steps = tuple(Measured(step.name, step.offset, step.seconds, step.bytes) for step in message.steps)
    answered = message.answered if message.HasField("answered") else None
    return Report(steps, message.ago, message.bytes, answered)


def progress_to_wire(progress: Progress) -> pb.Progress:
    """How far the disk is."""
    return pb.Progress(**progress.to_json())


def progress_from_wire(message: pb.Progress) -> Progress:
    """See `progress_to_wire`."""
    return Progress(
        bytes_present=message.bytes_present,
        bytes_total=message.bytes_total,
        files_present=message.files_present,
        files_total=message.files_total,
        fetched_bytes=message.fetched_bytes,
        rate=message.rate,
        eta=message.eta if message.HasField("eta") else None,
        complete=message.complete,
        seed_bytes=message.seed_bytes,
    )


def pages_to_wire(progress: Progress) -> pb.PagesReply:
    """How far memory is."""
    return pb.PagesReply(complete=progress.complete, progress=progress_to_wire(progress))


def pages_from_wire(message: pb.PagesReply) -> Progress:
    """See `pages_to_wire`. A target of an earlier version tells no figures."""
    if message.HasField("progress"):
        return progress_from_wire(message.progress)
    return Progress.of_memory(0, 0, 0.0, complete=message.complete)


def options_to_wire(migration: str, options: Options) -> pb.GiveBackRequest:
    """What the way back is asked for: neither how memory moves, nor what becomes of the copy that stays behind."""
    return pb.GiveBackRequest(
        migration=migration,
        verify=options.verify,
        volumes=options.volumes,
        network=options.network,
        compress=options.compress,
    )


def options_from_wire(message: pb.GiveBackRequest) -> Options:
    """See `options_to_wire`; raises Refused for what no command line would take."""
    try:
        network = Mode(message.network)
    except ValueError as error:
        raise Refused(f"the way back was asked for with an option that is none: {error}") from None
    volumes = dict(message.volumes)
    if any(kind not in CHOICES for kind in volumes.values()):
        raise Refused("the way back was asked for with a volume that is treated as none can be")
    return Options(verify=message.verify, volumes=volumes, network=network, compress=message.compress)


def event_to_wire(event: Mapping[str, Any]) -> pb.Event:
    """As the command line gets it."""
    return pb.Event(json=json.dumps(event).encode())


def event_from_wire(message: pb.Event) -> Mapping[str, Any]:
    """See `event_to_wire`; raises MigratorError for what tells of no migration."""
    try:
        event = json.loads(message.json)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not all(isinstance(event.get(key), str) for key in ("event", "migration")):
        raise MigratorError("the other agent told something that is no event")
    return event


def error_to_metadata(error: MigratorError) -> tuple[tuple[str, str | bytes], ...]:
    """An error's parts beside its message."""
    return (
        (KIND, error.kind),
        (REMEDY, error.remedy.encode()),
        (LOG, "\n".join(error.log).encode(errors="replace")[-_LOG_BYTES:]),
    )


_LOG_BYTES = 4096  # HTTP/2 peers accept 8 KiB of metadata by default


def error_from_rpc(error: grpc.RpcError, address: str) -> MigratorError:
    """The error that the peer raised, or what became of the call."""
    assert isinstance(error, grpc.Call)
    found: Mapping[str, Any] = dict(_metadata(error))
    if kind := found.get(KIND):
        log: Sequence[str] = found.get(LOG, b"").decode(errors="replace").splitlines()
        return by_kind(str(kind), error.details() or "", remedy=found.get(REMEDY, b"").decode(), log=log)
    details = " ".join((error.details() or error.code().name).split())
    if error.code() in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
        return PeerRefused(f"the agent at {address} refuses us: {details}")
    if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED):
        return PeerUnreachable(
            f"the agent at {address} does not answer: {_reason(details)}",
            remedy="is 'migrator agent' running there, and the address right?",
        )
    return MigratorError(f"the agent at {address} failed: {details}")


def _metadata(error: grpc.Call) -> list[tuple[str, Any]]:
    return [(str(key), value) for key, value in (error.trailing_metadata() or ())]


def _reason(details: str) -> str:
    """The last cause that gRPC names, without its addresses and internals."""
    return details.rpartition("last error: ")[2].rpartition(": ")[2] or details
