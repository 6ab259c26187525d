"""The backing tree: which node is where in it, and descriptors to reach it.

A node is an entry of `data/` that the kernel or the hydrator knows; its number is the inode
number of the backing entry (the root's is 1), so it means the same to the next daemon. An inode
must not be reused while anybody may still name it: what loses its last name is *parked* in
`orphans/` under its number, and removed when nobody refers to it (see `names`).

No descriptor is kept per node: directories and files are opened relative to their parent and
held in two bounded caches.

Single-threaded: nothing here may be called but from the daemon's trio thread.
"""

import errno
import os
import stat
from collections import OrderedDict

from voyfs.store.record import WRITTEN, Record
from voyfs.store.records import Records

ROOT = 1
ORPHANS = 0  # the pseudo-node that parked nodes are "in"

# Of the 20,000 descriptors that a small machine allows, and of the 1,024 that many services get,
# this leaves room for threads, sockets and the database.
DIRECTORY_DESCRIPTORS = 256
FILE_DESCRIPTORS = 256


class Node:
    """An entry of the backing tree, and where it is: `name` in the directory node `parent`.

    `others` holds further (parent, name) of a hard-linked file, as far as they were seen.
    `lookups` is the kernel's reference count; `held` counts our own reasons to keep the node. `lacks`
    are extended attributes that it is known not to have.
    """

    __slots__ = ("held", "ino", "kind", "lacks", "lookups", "name", "others", "parent", "record")

    def __init__(self, ino: int, parent: int, name: bytes, kind: int, record: Record | None):
        self.ino = ino
        self.parent = parent
        self.name = name
        self.kind = kind  # S_IFMT of the mode
        self.record = record
        self.lookups = 0
        self.held = 0
        self.others: set[tuple[int, bytes]] | None = None
        self.lacks: tuple[bytes, ...] = ()

    @property
    def parked(self) -> bool:
        return self.parent == ORPHANS

    @property
    def is_directory(self) -> bool:
        return self.kind == stat.S_IFDIR


class _Descriptors(OrderedDict[int, int]):
    """Least recently used descriptors by node number, closed when there are too many."""

    def __init__(self, bound: int) -> None:
        super().__init__()
        self._bound = bound

    def find(self, ino: int) -> int | None:
        descriptor = self.get(ino)
        if descriptor is not None:
            self.move_to_end(ino)
        return descriptor

    def keep(self, ino: int, descriptor: int) -> int:
        self[ino] = descriptor
        if len(self) > self._bound:
            os.close(self.popitem(last=False)[1])
        return descriptor

    def drop(self, ino: int) -> None:
        descriptor = self.pop(ino, None)
        if descriptor is not None:
            os.close(descriptor)

    def close(self) -> None:
        while self:
            os.close(self.popitem()[1])


class Tree:
    """All nodes in memory and the way to each."""

    def __init__(self, data: int, orphans: int, records: Records, *, heed_cuts: bool = True) -> None:
        """`data` and `orphans` are descriptors of the two directories; the caller closes them.

        Without `heed_cuts` a file that is too short is left for who checks the store to find.
        """
        self._roots = {ROOT: data, ORPHANS: orphans}
        self._records = records
        self._directories = _Descriptors(DIRECTORY_DESCRIPTORS)
        self._files = _Descriptors(FILE_DESCRIPTORS)
        root = Node(ROOT, ROOT, b".", stat.S_IFDIR, records.get(ROOT))
        root.held = 1
        self.nodes = {ROOT: root}
        self._heed_cuts = heed_cuts
        self._strays: dict[int, tuple[int, bytes]] = {}  # (parent, name) of files by inode, see `_scan`
        # parked by an earlier daemon, and not met yet
        self._left = {int(name) for name in os.listdir(orphans)}

    def close(self) -> None:
        self._directories.close()
        self._files.close()

    # -- finding nodes ----------------------------------------------------------------------

    def node(self, ino: int) -> Node:
        """The node with number `ino`. Raises OSError(ESTALE) when there is none."""
        node = self.nodes.get(ino)
        return node if node is not None else self._find(ino)

    def child(self, parent: Node, name: bytes) -> tuple[Node, os.stat_result]:
        """What `name` in `parent` is. Raises FileNotFoundError."""
        status = os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
        met = self.nodes.get(status.st_ino)
        parked = status.st_ino in self._left if met is None else met.parked
        node = self.known(parent, name, status.st_ino, stat.S_IFMT(status.st_mode))
        if parked:  # no longer, which its link count tells
            status = os.stat(name, dir_fd=self.directory(parent), follow_symlinks=False)
        self._heed(node, status)
        return node, status

    def _heed(self, node: Node, status: os.stat_result) -> None:
        """Takes a file that is shorter than its record says for one that the container has cut off.

        Power was lost after the cut was durable and before its record was. What is missing below
        it must not make the file longer again when it comes.
        """
        record = node.record
        if record is None or record.presence is None or not self._heed_cuts:
            return
        if status.st_size < record.presence.limit:
            record.flags |= WRITTEN
            self._records.lower(record, status.st_size)
            self._records.touched(record)

    def known(self, parent: Node, name: bytes, ino: int, kind: int) -> Node:
        """The node `ino`, which was just seen as `name` in `parent`."""
        node = self.nodes.get(ino)
        if node is None and ino in self._left and kind != stat.S_IFDIR:
            node = self.parked(ino)
        if node is None:
            node = Node(ino, parent.ino, name, kind, self._records.get(ino))
            self.nodes[ino] = node
        elif (node.parent, node.name) != (parent.ino, name):
            if node.is_directory:
                node.parent, node.name = parent.ino, name
            elif node.parked:
                # it was parked for want of a name, and here is one that nobody had met
                self.move(node, parent.ino, name)
                os.unlink(b"%d" % ino, dir_fd=self._roots[ORPHANS])
            else:
                self.add_name(node, parent.ino, name)
        return node

    def _find(self, ino: int) -> Node:
        """Looks for a node that this daemon has not met: by the hints, else everywhere."""
        node = self._by_records(ino) or self.parked(ino) or self._stray(ino)
        if node is None:
            self._scan()
            node = self._by_records(ino) or self._stray(ino)
        if node is None:
            raise OSError(errno.ESTALE, f"no node {ino}")
        return node

    def _by_records(self, ino: int) -> Node | None:
        """The node `ino` if it, and all above it, are where the records saw them last."""
        missing: list[Record] = []
        at = ino
        while at not in self.nodes:
            record = self._records.get(at)
            if record is None or len(missing) > 100_000:
                return None
            missing.append(record)
            at = record.parent
        for record in reversed(missing):
            if not self._is_at(record.ino, record.parent, record.name):
                return None
        return self.nodes[ino]

    def _is_at(self, ino: int, parent: int, name: bytes) -> bool:
        """Whether the node `ino` is `name` in the directory `parent`, which is known."""
        try:
            return self.child(self.nodes[parent], name)[0].ino == ino
        except OSError:
            return False

    def _stray(self, ino: int) -> Node | None:
        """The node `ino` if it is where a walk has met it."""
        place = self._strays.pop(ino, None)
        if place is None or not self._is_at(ino, *place):
            return None
        node = self.nodes[ino]
        if node.record is not None:
            self.move(node, *place)  # so that its record finds it the next time
        return node

    def _scan(self) -> None:
        """Walks the whole backing tree: keeps every directory as a node, and where the files are that the
        records cannot place. Blocks all, so one walk is to do for all that an earlier daemon's kernel knew.
        """
        self._strays.clear()
        waiting = [self.nodes[ROOT]]
        while waiting:
            directory = waiting.pop()
            files = {}
            for name, inode, is_directory in self.entries(directory):
                if is_directory:
                    waiting.append(self.known(directory, name, inode, stat.S_IFDIR))
                elif inode not in self.nodes:
                    files[inode] = directory.ino, name
            hints = self._records.places(files)
            self._strays.update((inode, place) for inode, place in files.items() if hints.get(inode) != place)

    def parked(self, ino: int) -> Node | None:
        """The node that is parked as `ino`, if there is one."""
        name = b"%d" % ino
        self._left.discard(ino)
        try:
            status = os.stat(name, dir_fd=self._roots[ORPHANS], follow_symlinks=False)
        except FileNotFoundError:
            return None
        kind = stat.S_IFMT(status.st_mode)
        node = self.nodes[ino] = Node(ino, ORPHANS, name, kind, self._records.get(ino))
        self._heed(node, status)
        node.lookups = 1  # by the kernel's will: it holds what it names by number
        return node

    # -- names of nodes ---------------------------------------------------------------------

    def add_name(self, node: Node, parent: int, name: bytes) -> None:
        """`node` is also `name` in directory `parent`."""
        if (node.parent, node.name) == (parent, name):
            return
        if node.others is None:
            node.others = set()
        node.others.add((parent, name))

    def move(self, node: Node, parent: int, name: bytes) -> None:
        """`node` is `name` in directory `parent` now, instead of where it was known."""
        if node.others:
            node.others.discard((parent, name))
        node.parent, node.name = parent, name
        if node.record is not None:
            node.record.parent, node.record.name = parent, name
            self._records.moved(node.record)

    def drop_name(self, node: Node, parent: int, name: bytes) -> bool:
        """`name` in `parent` is no longer `node`; whether another name of it is known."""
        if node.others:
            node.others.discard((parent, name))
        if (node.parent, node.name) != (parent, name):
            return True
        if not node.others:
            return False
        self.move(node, *node.others.pop())
        return True

    def has_other_name(self, node: Node, parent: int, name: bytes) -> bool:
        """Whether a name of `node` besides `name` in `parent` is known."""
        return bool(node.others) or (node.parent, node.name) != (parent, name)

    def gone(self, node: Node) -> None:
        """Nothing refers to `node` any more."""
        self.nodes.pop(node.ino, None)
        self._files.drop(node.ino)
        self._directories.drop(node.ino)
        self._records.evict(node.ino)

    def path(self, node: Node) -> bytes:
        """Path of `node` below the store: `data/...`, or `orphans/N` for a parked one."""
        parts: list[bytes] = []
        while node.ino != ROOT:
            parts.append(node.name)
            if node.parent == ORPHANS:
                return b"orphans/" + b"/".join(reversed(parts))
            node = self.node(node.parent)
        parts.append(b"data")
        return b"/".join(reversed(parts))

    # -- descriptors ------------------------------------------------------------------------

    def directory(self, node: Node) -> int:
        """A descriptor (O_PATH) of directory `node`, good until the next call."""
        missing: list[Node] = []
        while (descriptor := self._directory(node.ino)) is None:
            missing.append(node)
            if node.parent == ORPHANS:
                descriptor = self._roots[ORPHANS]
                break
            node = self.node(node.parent)
        for node in reversed(missing):
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW
            opened = os.open(node.name, flags, dir_fd=descriptor)
            descriptor = self._directories.keep(node.ino, opened)
        return descriptor

    def _directory(self, ino: int) -> int | None:
        root = self._roots.get(ino)
        return root if root is not None else self._directories.find(ino)

    def place(self, node: Node) -> tuple[int, bytes]:
        """(descriptor of the parent, name) to reach `node` with the *at() calls."""
        if node.ino == ROOT:
            return self._roots[ROOT], b"."
        if node.parent == ORPHANS:
            return self._roots[ORPHANS], node.name
        return self.directory(self.node(node.parent)), node.name

    def status(self, node: Node) -> os.stat_result:
        descriptor, name = self.place(node)
        return os.stat(name, dir_fd=descriptor, follow_symlinks=False)

    def xattr_path(self, node: Node) -> bytes:
        """A path for the xattr calls, which have no *at() form; do not follow its last part."""
        descriptor, name = self.place(node)
        return b"/proc/self/fd/%d/%s" % (descriptor, name)

    def file(self, node: Node) -> int:
        """A read-write descriptor of the regular file `node`, good until the next call."""
        descriptor = self._files.find(node.ino)
        if descriptor is None:
            directory, name = self.place(node)
            opened = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
            descriptor = self._files.keep(node.ino, opened)
        return descriptor

    def opened(self, node: Node, descriptor: int) -> None:
        """Keeps a descriptor of `node` that somebody had to open anyway."""
        self._files.drop(node.ino)
        self._files.keep(node.ino, descriptor)

    def entries(self, node: Node, *, read: bool = False) -> list[tuple[bytes, int, bool]]:
        """(name, inode, whether a directory) of everything in directory `node`.

        Its atime changes only if a program is to `read` them.
        """
        flags = os.O_RDONLY | os.O_DIRECTORY | (0 if read else os.O_NOATIME)
        descriptor = os.open(b".", flags, dir_fd=self.directory(node))
        try:
            with os.scandir(descriptor) as entries:
                return [
                    (os.fsencode(entry.name), entry.inode(), entry.is_dir(follow_symlinks=False)) for entry in entries
                ]
        finally:
            os.close(descriptor)
