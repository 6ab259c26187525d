"""Makes what callers wait for of the messages of a stream, each held against what was asked for."""

from voyfs.core.errors import SourceMalformed, SourceUnreadable
from voyfs.core.limits import TOUCHED_NAMES
from voyfs.core.touched import Touched
from voyfs.ports import Changed, Digested, InUse, Listing
from voyfs.rpc.answers import digested, require_below
from voyfs.rpc.assembly import ListingAssembly
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.wire import BadRequest, failure_error, file_from_wire, name_problem, path_problem, shown


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


class ChangedSince:
    """Makes one Changed of all messages."""

    def __init__(self) -> None:
        self._touched: list[Touched] = []
        self._inodes: set[int] = set()
        self._names = 0
        self.mark = b""

    def convert(self, reply: pb.ChangesReply) -> list[Changed]:
        if reply.unknown:
            raise SourceUnreadable(f"what changes there is not known: {shown(reply.unknown.encode())}")
        self.mark = reply.mark
        self._names += sum(1 + len(each.names) for each in reply.touched) + len(reply.inodes)
        if self._names > 2 * TOUCHED_NAMES:  # a directory's names may come in parts
            raise SourceMalformed("the source told of more changes than it keeps")
        for each in reply.touched:
            if path_problem(each.path) is not None or any(map(name_problem, each.names)):
                raise SourceMalformed("the source told of changes at impossible names")
            self._touched.append(Touched(each.path, tuple(each.names)))
        self._inodes.update(reply.inodes)
        return [Changed(tuple(self._touched), frozenset(self._inodes))] if reply.last else []

    def end(self) -> None:
        pass  # who waits for the answer sees that there is none
