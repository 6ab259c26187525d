"""Populating: the entries of a source directory become real entries of the backing tree.

A regular file becomes a sparse placeholder of the right size whose record says that all of it is
absent; everything else is complete at once. A directory counts as populated only when all its
entries and their records are there, in one transaction; what an interrupted attempt left behind
is removed by the next one, for nobody can have used a name in it.
"""

import os
import shutil
import stat
from collections.abc import Sequence

from voyfs.core.entry import Entry, Version
from voyfs.core.errors import SourceMalformed
from voyfs.core.presence import Presence
from voyfs.store.content import CAPABILITY
from voyfs.store.names import Names
from voyfs.store.powers import Powers
from voyfs.store.record import Record
from voyfs.store.records import Records
from voyfs.store.tree import ROOT, Node, Tree

_NO_VERSION = Version(0, 0, 0, 0)  # no inode has this number

# A new entry inherits these from its directory's default ACL.
_ACLS = ("system.posix_acl_access", "system.posix_acl_default")


class _Batch:
    """What an attempt to populate one directory has made so far."""

    def __init__(self) -> None:
        self.made: list[Record] = []
        self.linked: list[tuple[Record, bytes]] = []  # was made elsewhere, gets this name as well
        self.held: list[Node] = []
        self.spoiled = False  # a file that it links to is no more


class Placeholders:
    def __init__(self, tree: Tree, names: Names, records: Records, powers: Powers) -> None:
        self._powers = powers
        self._tree = tree
        self._names = names
        self._records = records
        self._batches: dict[int, _Batch] = {}  # by directory
        # hard-linked files of unfinished batches, by (device, inode) of the source
        self._making: dict[tuple[int, int], tuple[Record, _Batch]] = {}

    def adopt_root(self, entry: Entry) -> None:
        """The root of a new store takes the attributes of the export's root."""
        root = self._tree.nodes[ROOT]
        self._dress(self._tree.directory(root), b".", entry)
        os.fsync(self._tree.directory(root))  # nothing would dress it once more
        self._records.add([self._record(ROOT, ROOT, b"", entry, b"")], lasting=True)
        root.record = self._records.get(ROOT)

    def clear(self, directory: Node) -> None:
        """Removes what an interrupted attempt to populate `directory` left behind."""
        descriptor = self._tree.directory(directory)
        entries = self._tree.entries(directory)
        if entries:
            self._forget(descriptor)
        for name, _, is_directory in entries:
            if is_directory:  # empty, unless a loss of power took the records of what is below
                shutil.rmtree(name, dir_fd=descriptor)
            else:
                os.unlink(name, dir_fd=descriptor)

    def _forget(self, directory: int) -> None:
        """Forgets the records of all in `directory`: for good, before their inodes are free for others.

        There are none unless power was lost right after the names of a populated directory were refreshed.
        """
        gone = []
        for _, directories, files, below in os.fwalk(b".", dir_fd=directory):
            for name in directories + files:
                status = os.stat(name, dir_fd=below, follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode) or status.st_nlink == 1:
                    gone += [status.st_ino] if self._records.get(status.st_ino) else []
        for ino in gone:
            self._records.remove(ino)
        if gone:
            self._records.sync()

    def make(self, directory: Node, entries: Sequence[Entry]) -> None:
        """Makes `entries` in `directory`; they count once `finish` was called."""
        assert directory.record is not None
        prefix = directory.record.source + b"/" if directory.record.source else b""
        batch = self._batches.setdefault(directory.ino, _Batch())
        inherits = _ACLS[1] in os.listxattr(self._tree.xattr_path(directory), follow_symlinks=False)
        for entry in entries:
            if self._powers.makes(entry.mode):
                self._make(directory, entry, prefix, batch, inherits)

    def finish(self, directory: Node) -> list[int] | None:
        """Everything in `directory` is made: it is populated from now on, atomically.

        Gives the inodes of the new files that lack bytes; None if it has to be done once more.
        """
        record = directory.record
        assert record is not None
        batch = self._batches.get(directory.ino) or _Batch()
        if batch.spoiled:
            self.abandon(directory)
            return None
        links: list[tuple[Record, int]] = []
        for linked, name in batch.linked:
            _, maker = self._making.get((linked.device, linked.version.inode), (linked, batch))
            if maker is batch:
                links.append((linked, linked.unseen))
            else:
                # of the two directories that make this file, this one is finished first: it is ours
                maker.made.remove(linked)
                maker.linked.append((linked, linked.name))
                self._tree.move(self._tree.nodes[linked.ino], directory.ino, name)
                linked.parent, linked.name = directory.ino, name
                batch.made.append(linked)
        before = record.unseen, record.mtime_ns
        record.unseen = 0  # its subdirectories are real now and count themselves
        record.populated = True
        for linked, _ in links:  # one file may be there under several names
            linked.unseen = max(0, linked.unseen - 1)
        try:
            self._retime(directory, record)
            self._records.add(batch.made, changed=[*(linked for linked, _ in links), record])
        except BaseException:
            record.populated = False
            record.unseen, record.mtime_ns = before
            for linked, unseen in links:
                linked.unseen = unseen
            raise
        for linked, _ in links:
            linked.linking -= 1
        for made in batch.made:
            self._making.pop((made.device, made.version.inode), None)
            node = self._tree.nodes.get(made.ino)
            if node is not None:
                node.record = made
        for linked, name in batch.linked:
            self._tree.known(directory, name, linked.ino, stat.S_IFREG)  # un-parks it, too
        self._let_go(directory, batch)
        return [made.ino for made in batch.made if not made.complete]

    def abandon(self, directory: Node) -> None:
        """The attempt to populate `directory` failed; removes what it made."""
        batch = self._batches.get(directory.ino) or _Batch()
        for made in batch.made:
            self._making.pop((made.device, made.version.inode), None)
            for other in self._batches.values():
                if other is not batch and any(linked is made for linked, _ in other.linked):
                    other.spoiled = True
            node = self._tree.nodes.get(made.ino)
            if node is not None:
                self._tree.gone(node)
        for linked, _ in batch.linked:
            linked.linking -= 1
        self._let_go(directory, batch)
        self.clear(directory)

    def _let_go(self, directory: Node, batch: _Batch) -> None:
        self._batches.pop(directory.ino, None)
        for node in batch.held:
            node.held -= 1
            if self._tree.nodes.get(node.ino) is node:
                self._names.release(node)

    def _retime(self, directory: Node, record: Record) -> None:
        """Making entries changed the directory's mtime: gives it back what was shown meanwhile."""
        if record.mtime_ns is not None:
            descriptor, name = self._tree.place(directory)
            times = (os.stat(name, dir_fd=descriptor).st_atime_ns, record.mtime_ns)
            os.utime(name, ns=times, dir_fd=descriptor)
            record.mtime_ns = None

    def discard(self, directory: Node, name: bytes) -> None:
        """Removes `name` and all below it, with records. Only while nobody runs on the mount.

        The source has those bytes no more, so files are cut to nothing: the records last until the
        kernel has let go and a checkpoint was made, and nobody is to fetch for them meanwhile.
        """
        node, _ = self._tree.child(directory, name)
        waiting, seen = [node], []
        while waiting:
            at = waiting.pop()
            seen.append(at)
            if at.is_directory:
                waiting += [self._tree.child(at, n)[0] for n, _, _ in self._tree.entries(at)]
        for at in reversed(seen):
            parent = self._tree.node(at.parent)
            if at.record is not None and at.record.presence is not None:
                self._records.lower(at.record, 0)
                os.truncate(self._tree.file(at), 0)
            known = at.lookups  # by the kernel; unlike a caller's, this removal is not its own
            (self._names.rmdir if at.is_directory else self._names.unlink)(parent, at.name)
            at.lookups = known
            self._names.release(at)

    def disown(self, node: Node) -> None:
        """Whatever the source has, `node` is not it: it is to be discarded, under each of its names."""
        assert node.record is not None
        node.record.version = _NO_VERSION
        self._records.save(node.record)

    def update(self, directory: Node, entry: Entry) -> None:
        """The attributes of the subdirectory (or the root) `directory` changed on the source."""
        record = directory.record
        assert record is not None
        descriptor, name = self._tree.place(directory)
        path = self._tree.xattr_path(directory)
        for key in os.listxattr(path, follow_symlinks=False):
            os.removexattr(path, key, follow_symlinks=False)
        self._dress(descriptor, name, entry)
        directory.lacks = ()
        record.version = entry.version
        record.mode = entry.mode
        record.ctime_ns = entry.version.ctime_ns
        record.mtime_ns = None if record.populated else entry.version.mtime_ns
        self._records.save(record)

    # -- one entry --------------------------------------------------------------------------

    def _make(self, directory: Node, entry: Entry, prefix: bytes, batch: _Batch, inherits: bool) -> None:
        parent = self._tree.directory(directory)
        name = entry.name
        key = (entry.device, entry.version.inode)
        if entry.is_file and entry.nlink > 1:
            known, _ = self._making.get(key, (None, batch))
            known = known or self._records.of_link(entry.device, entry.version)
            if known is not None and known.version == entry.version:
                self._link(self._hold(self._tree.node(known.ino), batch), directory, name)
                batch.linked.append((known, name))
                known.linking += 1
                return
        if entry.is_file:
            self._make_file(parent, entry)
        elif entry.is_directory:
            os.mkdir(name, 0o700, dir_fd=parent)
        elif entry.is_symlink:
            os.symlink(entry.target, name, dir_fd=parent)
        elif stat.S_IFMT(entry.mode) in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK):
            os.mknod(name, stat.S_IFMT(entry.mode) | 0o600, entry.rdev, dir_fd=parent)
        else:
            raise SourceMalformed(f"{entry.name!r} is of no known type")
        if inherits and not entry.is_symlink:
            self._strip(parent, name)
        self._dress(parent, name, entry)
        ino = os.stat(name, dir_fd=parent, follow_symlinks=False).st_ino
        record = self._record(ino, directory.ino, name, entry, prefix + name)
        if entry.is_file and entry.nlink > 1:
            self._making[key] = record, batch
            # known at once, so that its further names need not look for it
            self._hold(self._tree.known(directory, name, ino, stat.S_IFREG), batch)
        batch.made.append(record)

    def _make_file(self, parent: int, entry: Entry) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        descriptor = os.open(entry.name, flags, 0o600, dir_fd=parent)
        try:
            if entry.size:
                os.truncate(descriptor, entry.size)
        finally:
            os.close(descriptor)

    def _link(self, node: Node, directory: Node, name: bytes) -> None:
        """Another name of a file that is in the store; one that is parked stays so until `finish`."""
        held = os.dup(self._tree.place(node)[0])
        try:
            parent = self._tree.directory(directory)
            os.link(node.name, name, src_dir_fd=held, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(held)

    @staticmethod
    def _hold(node: Node, batch: _Batch) -> Node:
        node.held += 1
        batch.held.append(node)
        return node

    @staticmethod
    def _strip(parent: int, name: bytes) -> None:
        """Takes away the ACLs that a new entry got from its directory: it has the source's only."""
        path = b"/proc/self/fd/%d/%s" % (parent, name)
        for key in set(_ACLS).intersection(os.listxattr(path, follow_symlinks=False)):
            os.removexattr(path, key, follow_symlinks=False)

    def _dress(self, parent: int, name: bytes, entry: Entry) -> None:
        """Owner, mode, xattrs, times: in this order, for each may undo the ones after it."""
        if self._powers.privileged:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        if not entry.is_symlink:
            os.chmod(name, stat.S_IMODE(self._powers.mode(entry.mode)), dir_fd=parent)
        for key, value in entry.xattrs:
            if self._kept_back(entry, key) or not self._powers.keeps(key):
                continue
            path = b"/proc/self/fd/%d/%s" % (parent, name)
            os.setxattr(path, key, value, follow_symlinks=False)
        os.utime(name, ns=(entry.atime_ns, entry.version.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _kept_back(self, entry: Entry, key: bytes) -> bool:
        """Writing into a file drops its capability, so it is given to it after the last byte."""
        return key == CAPABILITY.encode() and entry.is_file and entry.size > 0 and self._powers.keeps(key)

    def _record(self, ino: int, parent: int, name: bytes, entry: Entry, source: bytes) -> Record:
        unseen = 0
        if entry.is_file:
            unseen = entry.nlink - 1
        elif entry.is_directory:
            unseen = max(0, entry.nlink - 2)
        kept_back = [value for key, value in entry.xattrs if self._kept_back(entry, key)]
        incomplete = entry.is_file and entry.size > 0
        return Record(
            ino=ino,
            parent=parent,
            name=name,
            source=source,
            mode=entry.mode,
            device=entry.device,
            version=entry.version,
            blocks=entry.blocks,
            unseen=unseen,
            presence=Presence(entry.size, self._records.chunk) if entry.is_file else None,
            mtime_ns=entry.version.mtime_ns if incomplete or entry.is_directory else None,
            ctime_ns=entry.version.ctime_ns,
            capability=kept_back[0] if kept_back else None,
        )
