"""Whole replies held against the requests that they answer. Pure, like `assembly`."""

from collections.abc import Sequence

from voyfs.core.entry import Entry
from voyfs.core.errors import SourceError, SourceMalformed
from voyfs.ports import Digested, Piece, Wanted
from voyfs.rpc.assembly import FileAssembly
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.reply import contents, decode
from voyfs.rpc.wire import entry_from_wire, failure_error, path_problem, shown

_CONTENT_BYTES = 16  # XXH3-128


def require_below(path: bytes, top: bytes) -> None:
    """Raises SourceMalformed unless `path` is `top` or lies below it."""
    if path_problem(path) is not None:
        raise SourceMalformed(f"the source sent an impossible path: {shown(path)}")
    if top and path != top and not path.startswith(top + b"/"):
        raise SourceMalformed(f"the source sent a path not asked for: {shown(path)}")


def pieces(message: bytes, wanted: Sequence[Wanted]) -> list[list[Piece] | SourceError]:
    """For each file all of its extents, checked, or what the source says against it.

    Raises SourceMalformed and DigestMismatch.
    """
    reply, data = decode(message)
    assemblies = [FileAssembly(file.path, file.extents, file.offers) for file in wanted]
    found: list[list[Piece]] = [[] for _ in wanted]
    failed: dict[int, SourceError] = {}
    for failure in reply.failures:
        if failure.file >= len(wanted):
            raise SourceMalformed("the source sent a file not asked for")
        failed[failure.file] = error = failure_error(failure, wanted[failure.file].path)
        if isinstance(error, SourceMalformed):
            raise error
    for wire, part in contents(reply, data):
        if wire.file >= len(wanted):
            raise SourceMalformed("the source sent a file not asked for")
        found[wire.file].append(assemblies[wire.file].accept(wire, part))
    for number, assembly in enumerate(assemblies):
        if number not in failed and not assembly.complete:
            raise SourceMalformed(f"the source left {shown(wanted[number].path)} unfinished")
    return [failed.get(number, its) for number, its in enumerate(found)]


def stated(wire: pb.Stated, path: bytes) -> Entry | None:
    """The entry, None where there is none. Raises SourceErrors."""
    if not wire.HasField("failure"):
        return entry_from_wire(wire.entry, named=False)
    if wire.failure.reason in (pb.MISSING, pb.REFUSED):  # refused: a symbolic link on the way
        return None
    raise failure_error(wire.failure, path)


def digested(reply: pb.DigestReply) -> Digested:
    """Raises SourceMalformed."""
    entry = None
    if reply.HasField("entry"):
        entry = entry_from_wire(reply.entry, named=bool(reply.entry.name))
    if reply.HasField("failure"):
        return Digested(reply.path, entry, b"", str(failure_error(reply.failure, reply.path)))
    if entry is None or len(reply.content) != (_CONTENT_BYTES if entry.is_file else 0):
        raise SourceMalformed(f"the source sent no digest of {shown(reply.path)}")
    return Digested(reply.path, entry, reply.content)
