"""Makes what callers wait for of the messages of a stream, each held against what was asked for."""

from voyfs.core.errors import SourceMalformed
from voyfs.ports import Digested, InUse, Listing
from voyfs.rpc.answers import digested, require_below
from voyfs.rpc.assembly import ListingAssembly
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.wire import BadRequest, failure_error, file_from_wire, shown


class Walked:
    """Makes Listings at or below `top` of a walk's pages."""

    def __init__(self, top: bytes) -> None:
        self._top = top
        self._assembly = ListingAssembly()

    def convert(self, page: pb.Listing) -> list[Listing]:
        require_below(page.path, self._top)
        listing = self._assembly.accept(page)
        return [] if listing is None else [listing]

    def end(self) -> None:
        if not self._assembly.complete:
            raise SourceMalformed("the source left a directory unfinished")


class Listed:
    """Makes the Listing of one directory of its pages."""

    def __init__(self, path: bytes, inode: int) -> None:
        self._path = path
        self._inode = inode
        self._assembly = ListingAssembly()

    def convert(self, page: pb.Listing) -> list[Listing]:
        if page.HasField("failure"):
            raise failure_error(page.failure, self._path)
        if page.path != self._path or self._inode not in (0, page.inode):
            raise SourceMalformed(f"the source listed another directory than {shown(self._path)}")
        listing = self._assembly.accept(page)
        return [] if listing is None else [listing]

    def end(self) -> None:
        pass  # who waits for the Listing sees that there is none


class DigestedBelow:
    """Makes Digesteds at or below `top`."""

    def __init__(self, top: bytes) -> None:
        self._top = top

    def convert(self, reply: pb.DigestReply) -> list[Digested]:
        require_below(reply.path, self._top)
        return [digested(reply)]

    def end(self) -> None:
        pass


class UsedBelow:
    """Makes InUses below `top`."""

    def __init__(self, top: bytes) -> None:
        self._top = top

    def convert(self, reply: pb.WorkingSetReply) -> list[InUse]:
        return [self._in_use(wire, cached=reply.cached) for wire in reply.files]

    def _in_use(self, wire: pb.FileRanges, *, cached: bool) -> InUse:
        try:
            path, version, extents = file_from_wire(wire)
        except BadRequest as error:
            raise SourceMalformed(f"the source sent impossible ranges: {error}") from error
        require_below(path, self._top)
        return InUse(path, version, tuple(extents), cached)

    def end(self) -> None:
        pass
