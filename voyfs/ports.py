"""What the upper rooms need from the lower ones, as protocols.

Two implementations of `BlockSource` exist (gRPC, and a directory in memory for tests); one
conformance suite holds both to what is said here.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from voyfs.core.entry import Entry, Version
from voyfs.core.errors import SourceError
from voyfs.core.extents import Extent
from voyfs.core.offers import Offer
from voyfs.core.touched import Touched


@dataclass(frozen=True, slots=True)
class Attachment:
    """What the source says of the export: its identity (16 bytes) and its root."""

    export_id: bytes
    root: Entry


@dataclass(frozen=True, slots=True)
class Listing:
    """All entries of one directory, or the reason why it cannot be listed.

    `path` is relative to the export's root (empty: the root itself); `inode` is the directory's.
    """

    path: bytes
    inode: int
    entries: tuple[Entry, ...]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """Checked bytes of a file at `start`; `data` is None where the source has a hole."""

    start: int
    length: int
    data: bytes | memoryview | None
    offered: bool = False  # `data` is an offer's: the source has the same, and did not send it
    packed: int = 0  # it came as so many bytes; 0: as it is

    @property
    def sent(self) -> int:
        """Bytes of data that came from the source."""
        return 0 if self.data is None or self.offered else self.length

    @property
    def spared(self) -> int:
        """Bytes of these that did not cross the link, for it came packed."""
        return self.length - self.packed if self.packed else 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """Extents of one file of the source: ascending, disjoint, within the size; and what may be offered for them."""

    path: bytes
    version: Version
    extents: tuple[Extent, ...]
    offers: tuple[Offer, ...] = ()


@dataclass(frozen=True, slots=True)
class Digested:
    """An entry of the source as it is now; `content` is the XXH3-128 of a regular file."""

    path: bytes
    entry: Entry | None
    content: bytes
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class InUse:
    """Extents of a file that the source uses: `cached` in its memory, else the file was read lately."""

    path: bytes
    version: Version
    extents: tuple[Extent, ...]
    cached: bool


@dataclass(frozen=True, slots=True)
class Changed:
    """What may be other than before: entries by their names, and files by their inode, whatever their names."""

    touched: tuple[Touched, ...]
    inodes: frozenset[int]


class BlockSource(Protocol):
    """A read-only tree somewhere else.

    Every call waits for an unreachable source as long as its policy says, then raises
    `SourceUnreachable`. All data was checked against its digest before it is returned.
    Cancellation is honoured at once; a call left running behind has no effect.
    """

    async def attach(self) -> Attachment:
        """Raises SourceUnreachable, SourceRefused, SourceMalformed; SourceChanged for another export than before."""

    async def list_directory(self, path: bytes, inode: int) -> Listing:
        """All entries of the directory `path`, known to have `inode` (0: any).

        Raises SourceChanged when it is gone or another one, SourceUnreadable, and as attach.
        """

    def walk(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[Listing]]:
        """Every directory at or below `path`, parents first, one Listing each.

        A directory that cannot be read comes with a `problem`. Nothing is read ahead without
        bound: a slow consumer slows the source down. After a reconnect the walk starts again,
        so a Listing may come twice. Raises as attach.
        """

    async def fetch(
        self, path: bytes, version: Version, extents: Sequence[Extent], offers: Sequence[Offer] = ()
    ) -> list[Piece]:
        """The bytes of `extents` (ascending, disjoint, within the size), in order, complete.

        Together at most FETCH_BYTES. Of `offers` (ascending, each within an extent and at most CHUNK, of the same
        bytes or disjoint; at most REQUEST_OFFERS) those are taken that the source's version has: all but parts of
        holes. Raises SourceChanged when the file is of another version
        now, SourceCorrupt, SourceUnreadable, and as attach.
        """

    async def fetch_files(self, wanted: Sequence[Wanted]) -> list[list[Piece] | SourceError]:
        """As `fetch`, of at most BULK_JOB_FILES files in one call; where one cannot be had, the reason in its place.

        Together at most FETCH_BYTES. Raises SourceCorrupt, and as attach.
        """

    async def stat(self, paths: Sequence[bytes]) -> list[Entry | None]:
        """Entries as they are now, None where there is none; at most STAT_PATHS paths."""

    def digest(self, path: bytes) -> AbstractAsyncContextManager[AsyncIterator[Digested]]:
        """Digests of everything at or below `path`, parents first. Raises as attach."""

    def working_set(self, path: bytes, *, still: bool = False) -> AbstractAsyncContextManager[AsyncIterator[InUse]]:
        """What of the tree at or below `path` is in use, most useful first.

        With `still` only what nobody can write into when it is told: as long as it is of that version it stays as
        it is. A hint: it may be empty, and old by the time it comes; after a reconnect it starts again. An honest
        source tells of WORKING_SET_FILES at most. Raises as attach; a source of an earlier version refuses.
        """

    async def watch(self) -> bytes:
        """Has the source keep what changes from now on; a mark to ask for it with.

        What is not told of: stores through a shared writable mapping, until it is given up; and what a process writes
        asynchronously (io_submit), until it closes the file. Raises SourceUnreadable where the source cannot
        tell, SourceRefused where it is of an earlier version, and as attach.
        """

    async def changes(self, mark: bytes) -> Changed:
        """What may have changed since `mark` was given, which is good for one answer.

        Raises SourceUnreadable where that is not known (any more), and as attach.
        """

    async def release(self) -> None:
        """Tells the source that it is needed no more."""

    @property
    def reachable(self) -> bool:
        """Whether the last thing heard of the source was an answer."""


@dataclass(frozen=True, slots=True)
class FileJob:
    """Extents of one file to be brought over in bulk.

    `local` is the file's path below the backing directory, `inode` its inode there (checked
    after opening: a file renamed meanwhile is not written under its old name).
    """

    local: bytes
    inode: int
    source: bytes
    version: Version
    extents: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class FileDone:
    """Outcome of a FileJob: every extent is in the backing file, or none counts.

    `error` is None on success, else one of the exceptions of `fetch`, or OSError for the
    local side (ENOSPC above all).
    """

    error: Exception | None
    data_bytes: int  # received; holes are not counted
    seed_bytes: int = 0  # that a seed had
    spared_bytes: int = 0  # of `data_bytes`: did not cross the link, for they came packed


class BulkLane(Protocol):
    """Fetches straight into backing files, outside this process's interpreter lock."""

    async def run(self, jobs: Sequence[FileJob]) -> list[FileDone]:
        """Carries out the jobs in order; outcomes in the same order.

        At most BULK_JOB_FILES jobs of together BULK_JOB_BYTES; several calls may run at once.
        Must not be cancelled half-way by the caller: bytes may land until it returns, so the
        chunks stay claimed until then. Never raises for a source or a file; a lane whose
        process died gives SourceUnreachable for every job and starts again by itself.
        """
