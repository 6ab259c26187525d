"""Between the values of `voyfs.core` and the messages on the wire.

Both directions are held to the limits here: what a peer sent is checked before it becomes a
value, so that no other module ever sees a name with a slash or a negative size. Pure; knows
nothing of connections.
"""

import os
import stat
from collections.abc import Sequence
from typing import NamedTuple

from voyfs.core.entry import Entry, Version
from voyfs.core.errors import SourceChanged, SourceError, SourceMalformed, SourceUnreadable
from voyfs.core.extents import Extent
from voyfs.core.limits import (
    BULK_JOB_FILES,
    CHUNK,
    ENTRY_XATTR_BYTES,
    FETCH_BYTES,
    NAME_BYTES,
    PATH_BYTES,
    REQUEST_EXTENTS,
    REQUEST_OFFERS,
    TARGET_BYTES,
    XATTR_NAME_BYTES,
    XATTR_VALUE_BYTES,
)
from voyfs.core.offers import DIGEST_BYTES, Offer
from voyfs.rpc.generated import voyfs_pb2 as pb

_OFFSET_LIMIT = 2**63 - 1  # the kernel's loff_t
_NO_ID = 2**32 - 1  # as owner or group it means "leave it" to chown, and is nobody's
_MAJOR_LIMIT = 1 << 12  # Linux: 12 bits of major, 20 bits of minor
_MINOR_LIMIT = 1 << 20
_TYPES = frozenset(
    (
        stat.S_IFREG,
        stat.S_IFDIR,
        stat.S_IFLNK,
        stat.S_IFCHR,
        stat.S_IFBLK,
        stat.S_IFIFO,
        stat.S_IFSOCK,
    )
)
_DEVICES = frozenset((stat.S_IFCHR, stat.S_IFBLK))
_DETAIL_CHARACTERS = 200


class BadRequest(Exception):
    """A request that no honest client sends."""


def shown(path: bytes) -> str:
    """`path` for people: short and printable, whatever it holds."""
    text = repr(os.fsdecode(path))
    return text if len(text) <= _DETAIL_CHARACTERS else text[: _DETAIL_CHARACTERS - 3] + "..."


def path_problem(path: bytes) -> str | None:
    """Why `path` is not a path below an export; None if it is one (empty: the root)."""
    if len(path) > PATH_BYTES:
        return "longer than any path"
    if path:
        for name in path.split(b"/"):
            if (problem := name_problem(name)) is not None:
                return problem
    return None


def name_problem(name: bytes) -> str | None:
    """Why `name` cannot be the name of an entry; None if it can."""
    if not name or name in (b".", b".."):
        return "a name that is empty, . or .."
    if len(name) > NAME_BYTES:
        return f"a name of more than {NAME_BYTES} bytes"
    if b"/" in name or b"\0" in name:
        return "a name with a slash or a NUL"
    return None


def version_to_wire(version: Version) -> pb.Version:
    return pb.Version(
        inode=version.inode,
        size=version.size,
        mtime_ns=version.mtime_ns,
        ctime_ns=version.ctime_ns,
    )


def version_from_wire(version: pb.Version) -> Version:
    return Version(version.inode, version.size, version.mtime_ns, version.ctime_ns)


def entry_to_wire(entry: Entry) -> pb.Entry:
    return pb.Entry(
        name=entry.name,
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        rdev=entry.rdev,
        nlink=entry.nlink,
        blocks=entry.blocks,
        atime_ns=entry.atime_ns,
        device=entry.device,
        version=version_to_wire(entry.version),
        target=entry.target,
        xattrs=[pb.Xattr(name=name, value=value) for name, value in entry.xattrs],
    )


def entry_from_wire(wire: pb.Entry, *, named: bool) -> Entry:
    """The entry that a source sent; its name is empty unless `named`.

    Raises SourceMalformed for anything that no file system has.
    """
    if named:
        problem = name_problem(wire.name)
    else:
        problem = "a name where there is none" if wire.name else None
    problem = problem or _attribute_problem(wire) or _content_problem(wire)
    if problem is not None:
        raise SourceMalformed(f"the source sent an entry with {problem}: {shown(wire.name)}")
    return Entry(
        name=wire.name,
        mode=wire.mode,
        uid=wire.uid,
        gid=wire.gid,
        rdev=wire.rdev,
        nlink=wire.nlink,
        blocks=wire.blocks,
        atime_ns=wire.atime_ns,
        device=wire.device,
        version=version_from_wire(wire.version),
        target=wire.target,
        xattrs=_xattrs_from_wire(wire) if wire.xattrs else (),
    )


def _attribute_problem(wire: pb.Entry) -> str | None:
    kind = stat.S_IFMT(wire.mode)
    if kind not in _TYPES or wire.mode >> 16:
        return f"the unknown mode {wire.mode:o}"
    if wire.uid == _NO_ID or wire.gid == _NO_ID:
        return "an owner or group that none can be"
    if wire.nlink == 0:
        return "no links"
    if wire.blocks > _OFFSET_LIMIT // 512:
        return "an impossible number of blocks"
    if kind in _DEVICES:
        if os.major(wire.rdev) >= _MAJOR_LIMIT or os.minor(wire.rdev) >= _MINOR_LIMIT:
            return "an impossible device number"
    elif wire.rdev:
        return "a device number though it is no device"
    return None


def _content_problem(wire: pb.Entry) -> str | None:
    if wire.version.size > _OFFSET_LIMIT:
        return "an impossible size"
    if wire.version.inode == 0:
        return "no inode"
    if stat.S_ISLNK(wire.mode):
        if not 0 < len(wire.target) <= TARGET_BYTES or b"\0" in wire.target:
            return "an impossible target"
    elif wire.target:
        return "a target though it is no symbolic link"
    return None


def _xattrs_from_wire(wire: pb.Entry) -> tuple[tuple[bytes, bytes], ...]:
    found = {xattr.name: xattr.value for xattr in wire.xattrs}
    total = sum(len(name) + len(value) for name, value in found.items())
    if (
        len(found) != len(wire.xattrs)
        or total > ENTRY_XATTR_BYTES
        or any(not 0 < len(name) <= XATTR_NAME_BYTES or b"\0" in name for name in found)
        or any(len(value) > XATTR_VALUE_BYTES for value in found.values())
    ):
        raise SourceMalformed(f"the source sent impossible extended attributes: {shown(wire.name)}")
    return tuple(found.items())


class Ranges(NamedTuple):
    """What a client asks for of one file, and what it has already, perhaps: where, and the digest."""

    path: bytes
    version: Version
    extents: list[Extent]
    offered: list[Extent]
    digests: list[bytes]


def ranges_to_wire(
    path: bytes, version: Version, extents: Sequence[Extent], offers: Sequence[Offer] = ()
) -> pb.FileRanges:
    return pb.FileRanges(
        path=path,
        version=version_to_wire(version),
        extents=[pb.Extent(offset=e.start, length=e.length) for e in extents],
        offers=[pb.Offer(offset=o.start, length=len(o.data), digest=o.digest) for o in offers],
    )


def file_from_wire(file: pb.FileRanges) -> tuple[bytes, Version, list[Extent]]:
    """Ranges of one file. Raises BadRequest."""
    if (problem := path_problem(file.path)) is not None:
        raise BadRequest(problem)
    version = version_from_wire(file.version)
    if version.size > _OFFSET_LIMIT:
        raise BadRequest("an impossible size")
    if len(file.extents) > REQUEST_EXTENTS:
        raise BadRequest(f"more than {REQUEST_EXTENTS} extents")
    extents = [Extent(e.offset, e.offset + e.length) for e in file.extents]
    end = 0
    for extent in extents:
        if not end <= extent.start < extent.stop <= version.size:
            raise BadRequest("extents that are empty, not ascending, or past the end")
        end = extent.stop
    return file.path, version, extents


def ranges_from_wire(request: pb.FetchRequest) -> list[Ranges]:
    """What a client asks for, per file. Raises BadRequest."""
    if len(request.files) > BULK_JOB_FILES:
        raise BadRequest(f"more than {BULK_JOB_FILES} files")
    asked = []
    count = total = offers = 0
    for file in request.files:
        path, version, extents = file_from_wire(file)
        count += len(extents)
        if count > REQUEST_EXTENTS:
            raise BadRequest(f"more than {REQUEST_EXTENTS} extents")
        total += sum(extent.length for extent in extents)
        offers += len(file.offers)
        if offers > REQUEST_OFFERS:
            raise BadRequest(f"more than {REQUEST_OFFERS} offers")
        offered = [Extent(o.offset, o.offset + o.length) for o in file.offers]
        _check_offered(offered, extents)
        digests = [offer.digest for offer in file.offers]
        if any(len(digest) != DIGEST_BYTES for digest in digests):
            raise BadRequest("an offer whose digest is none")
        asked.append(Ranges(path, version, extents, offered, digests))
    if total > FETCH_BYTES:
        raise BadRequest(f"more than {FETCH_BYTES} bytes")
    return asked


def _check_offered(offered: Sequence[Extent], extents: Sequence[Extent]) -> None:
    within = iter(extents)
    around = Extent(0, 0)
    before = Extent(0, 0)
    for extent in offered:
        while extent.start >= around.stop:
            try:
                around = next(within)
            except StopIteration:
                raise BadRequest("an offer that nobody asked about") from None
        if not around.start <= extent.start < extent.stop <= around.stop or extent.length > CHUNK:
            raise BadRequest("an offer that is empty, too long, or not within an extent")
        if extent != before and extent.start < before.stop:
            raise BadRequest("offers that overlap or do not ascend")
        before = extent


def failure_error(failure: pb.Failure, path: bytes) -> SourceError:
    """The exception for what the source says of `path`."""
    detail = shown(failure.detail.encode()).strip("'\"") or "no reason given"
    if failure.reason == pb.UNREADABLE:
        return SourceUnreadable(f"the source cannot read {shown(path)}: {detail}")
    if failure.reason in (pb.CHANGED, pb.MISSING, pb.REFUSED):
        return SourceChanged(f"{shown(path)} has changed on the source: {detail}")
    return SourceMalformed(f"the source gave an unknown reason for {shown(path)}")
