"""Content and attributes of nodes: what a program reads, writes and sees with stat.

Everything here is local. Whether the bytes that a call needs are present is the caller's duty
(see `hydrator`); this room only refuses to guess: it asserts it where a wrong byte would be born.

While a file of the source is incomplete its backing file cannot show the right times, for every
chunk that arrives changes them. So its record holds the times to show, the container's own
changes included, and the last chunk puts the mtime back for good.
"""

import errno
import os
import stat
import time
from dataclasses import dataclass

from voyfs.core.extents import Extent, chunks_touched
from voyfs.ports import Piece
from voyfs.store.owning import owned
from voyfs.store.powers import Powers
from voyfs.store.record import ATTRIBUTES, NAMES, WRITTEN, Record
from voyfs.store.records import Records
from voyfs.store.tree import Node, Tree

CAPABILITY = "security.capability"
_CAPABILITY = CAPABILITY.encode()

# What the kernel itself asks for, the first before every write; it does not remember that there is none, but we do.
_ASKED = frozenset((_CAPABILITY, b"system.posix_acl_access", b"system.posix_acl_default"))


@dataclass(slots=True)
class Attributes:
    """What stat(2) shows; times in nanoseconds, `blocks` of 512 bytes."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


class Content:
    def __init__(self, tree: Tree, records: Records, powers: Powers) -> None:
        self._tree = tree
        self._powers = powers
        self._records = records
        self._buffer = bytearray()

    # -- attributes -------------------------------------------------------------------------

    def attributes(self, node: Node, status: os.stat_result | None = None) -> Attributes:
        """Attributes of `node`; `status` where the caller has it already."""
        status = status or self._tree.status(node)
        record = node.record
        shown = Attributes(
            node.ino,
            status.st_mode,
            status.st_nlink - (node.parked and not node.is_directory),
            status.st_uid,
            status.st_gid,
            status.st_rdev,
            status.st_size,
            status.st_blocks,
            status.st_atime_ns,
            status.st_mtime_ns,
            status.st_ctime_ns,
        )
        if node.parked and node.is_directory:
            shown.nlink = 0
        if record is not None:
            if record.populated or not node.is_directory:
                shown.nlink += record.unseen - record.linking
            elif not node.parked:  # some of its subdirectories may have been made already
                shown.nlink = 2 + record.unseen
            if record.mtime_ns is not None:
                shown.mtime_ns = record.mtime_ns
            if record.ctime_ns is not None:
                shown.ctime_ns = record.ctime_ns
            if node.is_directory and not record.flags & NAMES:
                # populating makes it grow, and nobody is to see that
                shown.size, shown.blocks = record.version.size, record.blocks
            elif not record.complete:
                shown.blocks = max(shown.blocks, record.blocks)
        return shown

    def set_mode(self, node: Node, mode: int) -> None:
        directory, name = self._tree.place(node)
        with owned(self._records, node.record, ATTRIBUTES):
            os.chmod(name, stat.S_IMODE(self._powers.mode(node.kind | stat.S_IMODE(mode))), dir_fd=directory)
        self._touched(node, ATTRIBUTES)

    def set_owner(self, node: Node, uid: int, gid: int) -> None:
        """chown(2); -1 leaves one as it is."""
        directory, name = self._tree.place(node)
        with owned(self._records, node.record, ATTRIBUTES):
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
        if node.record is not None and node.record.capability is not None:
            node.record.capability = None
            self._records.save(node.record)
        self._touched(node, ATTRIBUTES)

    def set_times(self, node: Node, atime_ns: int | None, mtime_ns: int | None) -> None:
        """utimensat(2); None leaves one as it is."""
        directory, name = self._tree.place(node)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        times = (
            status.st_atime_ns if atime_ns is None else atime_ns,
            status.st_mtime_ns if mtime_ns is None else mtime_ns,
        )
        with owned(self._records, node.record, ATTRIBUTES):
            os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)
        record = node.record
        if record is not None and mtime_ns is not None:
            record.mtime_ns = None if record.settled else mtime_ns
        self._touched(node, ATTRIBUTES)

    def _touched(self, node: Node, flag: int, *, written: bool = False) -> None:
        """The container changed `node`: its ctime, and its mtime if `written`, are now."""
        record = node.record
        if record is None:
            return
        if record.settled:
            # the backing file's own times are right from here on
            if record.flags & flag and record.ctime_ns is None and record.mtime_ns is None:
                return
            record.ctime_ns = None
            if written:
                record.mtime_ns = None
        else:
            record.ctime_ns = time.time_ns()
            if written:
                record.mtime_ns = record.ctime_ns
        record.flags |= flag
        self._records.touched(record)

    # -- bytes ------------------------------------------------------------------------------

    def read_nowait(self, node: Node, offset: int, size: int) -> memoryview | None:
        """Up to `size` bytes if the page cache has them, None if the disk must be asked.

        Good until the next call: new memory for each would cost as much as to fill it.
        """
        if len(self._buffer) < size:
            self._buffer = bytearray(size)
        buffer = memoryview(self._buffer)[:size]
        try:
            count = os.preadv(self._tree.file(node), [buffer], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                return None
            raise
        if count < size and offset + count < os.fstat(self._tree.file(node)).st_size:
            return None
        return buffer[:count]

    def write(self, node: Node, offset: int, data: bytes) -> int:
        """The container writes `data`. Chunks partly covered are present or have no other bytes."""
        record = node.record
        extent = Extent(offset, offset + len(data))
        if record is not None and not record.complete:
            assert not self.needed_before_write(record, extent), "a partial chunk would be mixed"
        with owned(self._records, node.record, WRITTEN):
            count = self._pwrite(node, data, offset)
        if record is not None and not record.complete:
            presence = record.presence
            assert presence is not None
            done = Extent(offset, offset + count)
            covered = []
            for index in presence.missing(chunks_touched(done, presence.chunk)):
                if presence.extent(index).stop > done.stop:
                    # A short write (disk full) into an absent chunk: the source's bytes will come
                    # over it, so it must not be acknowledged.
                    count = presence.extent(index).start - offset
                    break
                covered.append(index)
            if count <= 0:
                raise OSError(errno.ENOSPC, "no space for a whole chunk")
            self._records.mark(record, covered)
        self._touched(node, WRITTEN, written=True)
        self.settle(node)
        return count

    def _pwrite(self, node: Node, data: bytes, offset: int) -> int:
        """pwrite(2) that lets the capability be: the kernel has taken it from a file that a program
        wrote to, and a write through a shared mapping, which looks the same here, leaves it."""
        file = self._tree.file(node)
        if _CAPABILITY in node.lacks:
            return os.pwrite(file, data, offset)
        try:
            capability = os.getxattr(file, CAPABILITY)
        except OSError:
            return os.pwrite(file, data, offset)
        count = os.pwrite(file, data, offset)
        os.setxattr(file, CAPABILITY, capability)
        return count

    def needed_before_write(self, record: Record, extent: Extent) -> list[int]:
        """Absent chunks that a write of `extent` covers only in part."""
        presence = record.presence
        if presence is None or presence.complete:
            return []
        return [
            index
            for index in presence.missing(chunks_touched(extent, presence.chunk))
            if extent.start > presence.extent(index).start or extent.stop < presence.extent(index).stop
        ]

    def truncate(self, node: Node, size: int) -> None:
        """The container cuts or lengthens the file. No fetch of cut chunks may be under way."""
        record = node.record
        file = self._tree.file(node)
        if record is not None and record.presence is not None:
            # first, so that a daemon killed in between never brings cut bytes back
            self._records.lower(record, size)
        with owned(self._records, node.record, WRITTEN):
            os.truncate(file, size)
        self._touched(node, WRITTEN, written=True)
        self.settle(node)

    def fill(self, node: Node, piece: Piece, extent: Extent) -> None:
        """Writes what `piece`, of the source, has of the absent chunks `extent`. A hole is there already."""
        start = max(piece.start, extent.start)
        stop = min(piece.start + piece.length, extent.stop)
        if piece.data is not None and start < stop:
            file = self._tree.file(node)
            view = memoryview(piece.data)[start - piece.start : stop - piece.start]
            while view:
                count = os.pwrite(file, view, start)
                view = view[count:]
                start += count

    def filled(self, *filled: tuple[Node, list[int]]) -> None:
        """The bytes of these chunks are in the backing files. All are present then, or none when it fails."""
        marks = []
        for node, chunks in filled:
            assert node.record is not None
            marks.append((node.record, chunks))
        self._records.mark_all(marks)
        self.settle(*(node for node, _ in filled))

    def settle(self, *nodes: Node) -> None:
        """Where the last chunk is there: gives the backing file its time and capability for good.

        One that fails keeps no other from it.
        """
        failure: OSError | None = None
        settled = []
        for node in nodes:
            record = node.record
            if record is None or record.presence is None or not record.complete:
                continue
            try:
                if self._settle(node, record):
                    settled.append(record)
            except OSError as error:
                failure = error
        self._records.touched(*settled)
        if failure is not None:
            raise failure

    def _settle(self, node: Node, record: Record) -> bool:
        """Whether what the record says of its times has changed."""
        if record.capability is not None:
            os.setxattr(self._tree.xattr_path(node), CAPABILITY, record.capability, follow_symlinks=False)
            self._records.capability_given(record)
            node.lacks = ()
        if record.mtime_ns is None:
            return False
        directory, name = self._tree.place(node)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        os.utime(name, ns=(status.st_atime_ns, record.mtime_ns), dir_fd=directory, follow_symlinks=False)
        record.mtime_ns = None
        return True

    # -- extended attributes ------------------------------------------------------------------

    def get_xattr(self, node: Node, name: bytes) -> bytes:
        """Raises OSError(ENODATA) when it is not there."""
        record = node.record
        if record is not None and record.capability is not None and name == _CAPABILITY:
            return record.capability
        try:
            return os.getxattr(self._tree.xattr_path(node), name, follow_symlinks=False)
        except OSError as error:
            if error.errno == errno.ENODATA and name in _ASKED and name not in node.lacks:
                node.lacks += (name,)
            raise

    def lacks_xattr(self, node: Node, name: bytes) -> bool:
        """Whether it is known, without asking anybody, that there is no such attribute."""
        record = node.record
        return name in node.lacks and (record is None or record.capability is None)

    def list_xattrs(self, node: Node) -> list[bytes]:
        path = self._tree.xattr_path(node)
        names = [os.fsencode(name) for name in os.listxattr(path, follow_symlinks=False)]
        if node.record is not None and node.record.capability is not None:
            names.append(_CAPABILITY)
        return names

    def set_xattr(self, node: Node, name: bytes, value: bytes) -> None:
        node.lacks = ()
        if not self._powers.keeps(name):
            raise OSError(errno.EOPNOTSUPP, "an unprivileged store has no such attributes")
        record = node.record
        if name == _CAPABILITY and record is not None and not record.complete:
            record.capability = value
            self._records.save(record)
        else:
            with owned(self._records, node.record, ATTRIBUTES):
                os.setxattr(self._tree.xattr_path(node), name, value, follow_symlinks=False)
        self._touched(node, ATTRIBUTES)

    def remove_xattr(self, node: Node, name: bytes) -> None:
        record = node.record
        if record is not None and record.capability is not None and name == _CAPABILITY:
            record.capability = None
            self._records.save(record)
        else:
            path = self._tree.xattr_path(node)
            was_there = os.fsdecode(name) in os.listxattr(path, follow_symlinks=False)
            with owned(self._records, node.record, ATTRIBUTES if was_there else 0):
                os.removexattr(path, name, follow_symlinks=False)
            if not was_there:  # an ACL: to remove none is no error, and no change
                return
        self._touched(node, ATTRIBUTES)

    def target(self, node: Node) -> bytes:
        directory, name = self._tree.place(node)
        return os.readlink(name, dir_fd=directory)
