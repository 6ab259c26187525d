"""Operations on names: create, link, rename, remove.

Each is the local file system's own call on the backing tree plus what keeps nodes and records
true. An entry that loses its last known name is parked, not removed, for three may still refer
to it: the kernel (an open file, a working directory), a record in the database (the inode must
not be reused while one exists), and names on the source that are not populated yet.

All directories given here are populated; that is the caller's duty (see `vfs`). Every call is
atomic for the other tasks: there is no await in this room.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager

from voyfs.core.changes import Change
from voyfs.store.intents import Intents
from voyfs.store.owning import owned
from voyfs.store.powers import Powers
from voyfs.store.record import NAMES, Record
from voyfs.store.records import Records
from voyfs.store.tree import ORPHANS, Node, Tree
from voyfs.syscalls import RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2


class Names:
    def __init__(self, tree: Tree, orphans: int, records: Records, powers: Powers) -> None:
        self._tree = tree
        self._powers = powers
        self._orphans = orphans
        self._records = records
        self.intents = Intents(records)
        self._to_reap: set[int] = set()  # parked, with a record: removed by the next checkpoint

    # -- making -----------------------------------------------------------------------------

    def create(self, parent: Node, name: bytes, mode: int, uid: int, gid: int, umask: int) -> Node:
        """Makes and opens an empty regular file. Raises FileExistsError."""
        directory = self._tree.directory(parent)
        mode = self._powers.mode(stat.S_IFREG | mode)
        flags = os.O_RDWR | os.O_NOFOLLOW
        if not self._made_before(Change.CREATE, parent, name):
            os.umask(self._powers.umask(umask))
            flags |= os.O_CREAT | os.O_EXCL
        with self._noted(parent):
            descriptor = os.open(name, flags, stat.S_IMODE(mode), dir_fd=directory)
        self._own(directory, name, mode, uid, gid)
        inode = os.fstat(descriptor).st_ino
        node = self._tree.known(parent, name, inode, stat.S_IFREG)
        self._tree.opened(node, descriptor)
        self.changed(parent)
        return node

    def mkdir(self, parent: Node, name: bytes, mode: int, uid: int, gid: int, umask: int) -> Node:
        directory = self._tree.directory(parent)
        mode = self._powers.mode(stat.S_IFDIR | mode)
        if not self._made_before(Change.MKDIR, parent, name):
            os.umask(self._powers.umask(umask))
            with self._noted(parent):
                os.mkdir(name, stat.S_IMODE(mode), dir_fd=directory)
        # mkdir(2) leaves out the setuid, setgid and sticky bits that the caller asked for
        self._own(directory, name, mode, uid, gid)
        self.changed(parent)
        return self._tree.child(parent, name)[0]

    def mknod(self, parent: Node, name: bytes, mode: int, device: int, uid: int, gid: int, umask: int) -> Node:
        directory = self._tree.directory(parent)
        mode = self._powers.mode(mode)
        if not self._made_before(Change.MKNOD, parent, name):
            os.umask(self._powers.umask(umask))
            with self._noted(parent):
                os.mknod(name, mode, device, dir_fd=directory)
        self._own(directory, name, mode, uid, gid)
        self.changed(parent)
        return self._tree.child(parent, name)[0]

    def symlink(self, parent: Node, name: bytes, target: bytes, uid: int, gid: int) -> Node:
        directory = self._tree.directory(parent)
        if not self._made_before(Change.SYMLINK, parent, name):
            with self._noted(parent):
                os.symlink(target, name, dir_fd=directory)
        self._own(directory, name, stat.S_IFLNK, uid, gid)
        self.changed(parent)
        return self._tree.child(parent, name)[0]

    def _made_before(self, change: Change, parent: Node, name: bytes) -> bool:
        """Whether this call is sent again and its entry exists already; notes the call if not.

        What follows the making (owner, special bits) is done again: it may have been left undone.
        """
        if self.intents.begun(change, parent.ino, name) is not None and self._at(parent, name) is not None:
            return True
        self.intents.intend(change, parent.ino, name)
        return False

    def _own(self, directory: int, name: bytes, mode: int, uid: int, gid: int) -> None:
        """Gives a new entry to who asked for it, as the kernel would have."""
        made = os.stat(name, dir_fd=directory, follow_symlinks=False)
        # In a setgid directory the backing file system has chosen the group already.
        inherited = os.stat(b".", dir_fd=directory).st_mode & stat.S_ISGID
        group = -1 if inherited else gid
        wanted = uid, made.st_gid if inherited else gid
        if self._powers.privileged and (made.st_uid, made.st_gid) != wanted:
            os.chown(name, uid, group, dir_fd=directory, follow_symlinks=False)
        # Both mkdir(2) and chown(2) drop special bits; an ACL may have taken others: keep those.
        special = mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX)
        if special and not stat.S_ISLNK(mode):
            permissions = stat.S_IMODE(made.st_mode)
            os.chmod(name, permissions | special, dir_fd=directory)

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        if node.parked and self._tree.status(node).st_nlink == 1:
            raise OSError(errno.ENOENT, "removed already")
        if self.intents.begun(Change.LINK, parent.ino, name) == node.ino and self._at(parent, name) is node:
            self._retimed(node)
            self.changed(parent)
            return
        self.intents.intend(Change.LINK, parent.ino, name, node.ino)
        directory, old = self._tree.place(node)
        # `place` may have opened directories; the second descriptor must not push out the first
        held = os.dup(directory)
        try:
            new_directory = self._tree.directory(parent)
            with self._noted(parent):
                os.link(old, name, src_dir_fd=held, dst_dir_fd=new_directory, follow_symlinks=False)
        finally:
            os.close(held)
        self._tree.known(parent, name, node.ino, node.kind)
        self._retimed(node)
        self.changed(parent)

    # -- removing ---------------------------------------------------------------------------

    def unlink(self, parent: Node, name: bytes) -> Node | None:
        """Removes a name of anything but a directory; gives the node that had it.

        None when the daemon before this one had removed it already.
        """
        if self._removed_before(Change.UNLINK, parent, name):
            return None
        node, status = self._tree.child(parent, name)
        if stat.S_ISDIR(status.st_mode):
            raise OSError(errno.EISDIR, "is a directory")
        self.intents.intend(Change.UNLINK, parent.ino, name, node.ino)
        directory = self._tree.directory(parent)
        if self._tree.has_other_name(node, parent.ino, name):
            with self._noted(parent):
                os.unlink(name, dir_fd=directory)
            self._tree.drop_name(node, parent.ino, name)
        else:
            with self._noted(parent):
                os.rename(name, self._orphan(node), src_dir_fd=directory, dst_dir_fd=self._orphans)
            self._park(node)
        self._retimed(node)
        self.changed(parent)
        return node

    def _removed_before(self, change: Change, parent: Node, name: bytes) -> bool:
        """Whether this call is sent again and was carried out."""
        removed = self.intents.begun(change, parent.ino, name)
        if removed is None:
            return False
        there = self._at(parent, name)
        if there is not None and there.ino == removed:
            return False
        self.changed(parent)  # the last daemon may have been killed before it noted its times
        return True

    def rmdir(self, parent: Node, name: bytes) -> Node | None:
        """Removes an empty directory; gives its node, or None as `unlink` does."""
        if self._removed_before(Change.RMDIR, parent, name):
            return None
        node, status = self._tree.child(parent, name)
        if not stat.S_ISDIR(status.st_mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        if self._tree.entries(node):
            raise OSError(errno.ENOTEMPTY, "directory not empty")
        self.intents.intend(Change.RMDIR, parent.ino, name, node.ino)
        directory = self._tree.directory(parent)
        with self._noted(parent):
            os.rename(name, self._orphan(node), src_dir_fd=directory, dst_dir_fd=self._orphans)
        self._park(node)
        self.changed(parent)
        return node

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, flags: int) -> None:
        """rename(2) and its NOREPLACE and EXCHANGE; the victim, if any, is parked."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise OSError(errno.EINVAL, "unknown flags")
        tree = self._tree
        call = name + b"/" + new_name
        moved = self.intents.begun(Change.RENAME, parent.ino, call)
        if moved is not None:
            there = self._at(new_parent, new_name)
            if there is not None and there.ino == moved:
                self._finish_rename(parent, name, flags)
                self._retimed(there)
                self.changed(parent)
                self.changed(new_parent)
                return
        node, _ = tree.child(parent, name)
        victim = self._at(new_parent, new_name)
        for directory_node in (parent, new_parent):
            self.intents.intend(Change.RENAME, directory_node.ino, call, node.ino)
        directory = os.dup(tree.directory(parent))
        try:
            new_directory = tree.directory(new_parent)
            if victim is node and not flags:
                return  # two names of one file: POSIX says to do nothing
            with self._noted(parent), self._noted(new_parent):
                if flags:
                    renameat2(directory, name, new_directory, new_name, flags)
                elif victim is None:
                    os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
                elif victim.is_directory:
                    self._rename_over_directory(node, victim, directory, name, new_directory, new_name)
                else:
                    self._rename_over_file(node, victim, directory, name, new_directory, new_name, new_parent.ino)
        finally:
            os.close(directory)
        if flags & RENAME_EXCHANGE:
            assert victim is not None
            self._renamed(victim, new_parent.ino, new_name, parent.ino, name)
        self._renamed(node, parent.ino, name, new_parent.ino, new_name)
        self.changed(parent)
        self.changed(new_parent)

    def _finish_rename(self, parent: Node, name: bytes, flags: int) -> None:
        """The last daemon had renamed; of a replaced directory it may have left the second half."""
        victim = self._at(parent, name)
        if flags or victim is None or not victim.is_directory or self._tree.entries(victim):
            return
        directory = self._tree.directory(parent)
        os.rename(name, self._orphan(victim), src_dir_fd=directory, dst_dir_fd=self._orphans)
        self._park(victim)

    def _rename_over_file(
        self,
        node: Node,
        victim: Node,
        directory: int,
        name: bytes,
        new_directory: int,
        new_name: bytes,
        new_parent: int,
    ) -> None:
        if node.is_directory:
            raise OSError(errno.ENOTDIR, "a directory cannot replace a file")
        parks = not self._tree.has_other_name(victim, new_parent, new_name)
        if parks:
            # linked first, so that the replacing rename stays atomic and the inode lives on
            try:
                os.link(
                    new_name,
                    self._orphan(victim),
                    src_dir_fd=new_directory,
                    dst_dir_fd=self._orphans,
                    follow_symlinks=False,
                )
            except FileExistsError:
                pass  # by a daemon that was killed right after it
        try:
            os.rename(name, new_name, src_dir_fd=directory, dst_dir_fd=new_directory)
        except OSError:
            if parks:
                os.unlink(self._orphan(victim), dir_fd=self._orphans)
            raise
        if parks:
            self._park(victim)
        else:
            self._tree.drop_name(victim, new_parent, new_name)

    def _rename_over_directory(
        self,
        node: Node,
        victim: Node,
        directory: int,
        name: bytes,
        new_directory: int,
        new_name: bytes,
    ) -> None:
        if not node.is_directory:
            raise OSError(errno.EISDIR, "a file cannot replace a directory")
        if self._tree.entries(victim):
            raise OSError(errno.ENOTEMPTY, "directory not empty")
        renameat2(directory, name, new_directory, new_name, RENAME_EXCHANGE)
        try:
            os.rename(name, self._orphan(victim), src_dir_fd=directory, dst_dir_fd=self._orphans)
        except OSError:
            renameat2(directory, name, new_directory, new_name, RENAME_EXCHANGE)
            raise
        self._park(victim)

    def _renamed(self, node: Node, parent: int, name: bytes, to: int, new_name: bytes) -> None:
        self._retimed(node)
        if (node.parent, node.name) == (parent, name):
            self._tree.move(node, to, new_name)
        else:
            if node.others:
                node.others.discard((parent, name))
            self._tree.add_name(node, to, new_name)

    def _at(self, parent: Node, name: bytes) -> Node | None:
        try:
            return self._tree.child(parent, name)[0]
        except FileNotFoundError:
            return None

    def _park(self, node: Node) -> None:
        """`node` was moved to `orphans/`.

        Whoever asked to remove it holds it: the kernel says when it lets go. (How often it refers to it may
        have been counted by an earlier daemon, but its last word gives up all references at once.)
        """
        self._tree.move(node, ORPHANS, self._orphan(node))
        node.lookups = max(node.lookups, 1)

    @staticmethod
    def _orphan(node: Node) -> bytes:
        return b"%d" % node.ino

    def _retimed(self, node: Node) -> None:
        """A change of its names changes the ctime of `node`."""
        record = node.record
        if record is not None and record.ctime_ns is not None:
            record.ctime_ns = None if record.complete else time.time_ns()
            self._records.touched(record)

    def _noted(self, directory: Node) -> AbstractContextManager[None]:
        """For what changes names in DIRECTORY, until `changed` is told."""
        return owned(self._records, directory.record, NAMES)

    def changed(self, directory: Node) -> None:
        """The container changed the names in `directory`: its times are its own from now on."""
        record = directory.record
        shown = record is not None and (record.ctime_ns, record.mtime_ns) != (None, None)
        if record is not None and (shown or not record.flags & NAMES):
            record.flags |= NAMES
            record.mtime_ns = record.ctime_ns = None
            self._records.touched(record)

    # -- letting go -------------------------------------------------------------------------

    def release(self, node: Node) -> None:
        """Lets go of `node` if the kernel, our own tasks and its name have."""
        if node.lookups > 0 or node.held > 0:
            return
        if node.parked:
            self._tree.gone(node)
            self._let_go(node.ino, node.record)
        elif not node.is_directory:  # directories stay: they lead to everything below
            self._tree.gone(node)

    def _let_go(self, ino: int, record: Record | None) -> None:
        """Nobody uses what is parked as `ino` any more."""
        status = os.stat(b"%d" % ino, dir_fd=self._orphans, follow_symlinks=False)
        is_directory = stat.S_ISDIR(status.st_mode)
        if record is None or (status.st_nlink > 1 and not is_directory):
            # Not ours to remember, or it has a name that nobody met yet and the record with it.
            self._remove(ino, is_directory)
        elif is_directory or not record.unseen:
            self._to_reap.add(ino)

    def doomed(self, ino: int) -> bool:
        """Whether nobody will ever ask for `ino` again: the next checkpoint removes it."""
        return ino in self._to_reap and ino not in self._tree.nodes

    def reapable(self) -> list[int]:
        """Parked entries whose records may be removed: nobody has come back to them."""
        return [ino for ino in self._to_reap if ino not in self._tree.nodes]

    def reap(self, inos: list[int]) -> None:
        """Removes parked entries whose records are gone for good, power loss included."""
        for ino in inos:
            self._to_reap.discard(ino)
            status = os.stat(b"%d" % ino, dir_fd=self._orphans, follow_symlinks=False)
            self._remove(ino, stat.S_ISDIR(status.st_mode))

    def _remove(self, ino: int, is_directory: bool) -> None:
        if is_directory:
            os.rmdir(b"%d" % ino, dir_fd=self._orphans)
        else:
            os.unlink(b"%d" % ino, dir_fd=self._orphans)

    def adopt_orphans(self) -> None:
        """While no kernel knows any node: nothing parked is in use."""
        for ino, record in self._parked():
            node = self._tree.nodes.get(ino)
            if node is not None:  # the kernel went away without forgetting it
                self._tree.gone(node)
            self._let_go(ino, record)

    def _parked(self) -> Iterator[tuple[int, Record | None]]:
        for name in os.listdir(self._orphans):
            yield int(name), self._records.get(int(name))
