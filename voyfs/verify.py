"""Proof at the end: what is here against what is there, entry by entry.

The source sends a digest of everything in its tree. What the container changed since (the records
know: content, attributes, names of a directory) is its own and only counted; everything else must
be equal, and each difference is named.
"""

import os
import stat
from dataclasses import dataclass, field

import trio
import xxhash

from voyfs.core.entry import Entry
from voyfs.ports import BlockSource, Digested
from voyfs.store.content import CAPABILITY
from voyfs.store.record import ATTRIBUTES, NAMES, WRITTEN
from voyfs.store.store import Store
from voyfs.store.tree import Node
from voyfs.vfs import in_thread

# Differences named in a report; the rest is counted.
SHOWN_DIFFERENCES = 1000

_READ_BYTES = 1 << 20
_CAPABILITY = CAPABILITY.encode()


@dataclass(slots=True)
class Report:
    """Counts of entries; `differences` are [path, what], at most SHOWN_DIFFERENCES of them."""

    equal: int = 0  # same as on the source, attributes and content
    equal_bytes: int = 0
    touched: int = 0  # of these: directories whose times alone the source has changed since
    written: int = 0  # content or attributes are the container's own
    gone: int = 0  # removed or renamed by the container
    created: int = 0  # not from the source
    left_out: int = 0  # on the source, of a type that an unprivileged store has not
    difference_count: int = 0
    differences: list[tuple[str, str]] = field(default_factory=list)

    def differs(self, path: bytes, what: str) -> None:
        self.difference_count += 1
        if len(self.differences) < SHOWN_DIFFERENCES:
            self.differences.append((os.fsdecode(path) or "/", what))


async def verify(store: Store, source: BlockSource) -> Report:
    """Compares the whole tree with the source; everything is local. Raises SourceError."""
    report = Report()
    names: dict[bytes, set[bytes]] = {}  # of each directory; the root is the name "" in itself
    links: dict[tuple[int, int], int] = {}
    async with source.digest(b"") as digests:
        async for digested in digests:
            parent, _, name = digested.path.rpartition(b"/")
            siblings = names.setdefault(parent, set())
            if name in siblings:
                continue  # told again, after a reconnect
            siblings.add(name)
            if digested.entry is not None and digested.entry.is_directory:
                names.setdefault(digested.path, set())
            await _compare(store, digested, report, links)
    for path, known in names.items():
        await trio.lowlevel.checkpoint()
        record = store.records.of_directory(path)
        if record is None:
            continue
        node = store.tree.node(record.ino)
        if node.parked:
            continue
        for name, _, _ in store.tree.entries(node):
            if name not in known:
                if record.flags & NAMES:
                    report.created += 1
                else:
                    report.differs(path + b"/" + name, "is not on the source")
    return report


async def _compare(store: Store, digested: Digested, report: Report, links: dict[tuple[int, int], int]) -> None:
    path, entry = digested.path, digested.entry
    if entry is None:
        report.differs(path, f"the source cannot read it: {digested.problem}")
        return
    if not store.powers.makes(entry.mode):
        report.left_out += 1
        return
    found = _local(store, path, entry)
    if isinstance(found, str):
        if found:
            report.differs(path, found)
        else:
            report.gone += 1
        return
    found.held += 1
    try:
        await _compare_found(store, found, digested, report, links)
    finally:
        found.held -= 1
        store.names.release(found)  # or the memory would hold the whole tree in the end


async def _compare_found(
    store: Store, found: Node, digested: Digested, report: Report, links: dict[tuple[int, int], int]
) -> None:
    path, entry, record = digested.path, digested.entry, found.record
    assert entry is not None
    assert record is not None
    what = _attributes(store, found, entry) if not record.flags & ATTRIBUTES else ""
    if record.flags & (WRITTEN | ATTRIBUTES):
        report.written += 1
    if not record.flags & WRITTEN and entry.is_file and not what:
        if record.version != entry.version:
            what = "changed on the source since it was populated"
        elif await _digest(store, found) != digested.content:
            what = "its content differs"
    if entry.is_file and entry.nlink > 1 and not what:
        known = links.setdefault((entry.device, entry.version.inode), found.ino)
        if known != found.ino:
            what = "is not the same file as its other names"
    if what:
        report.differs(path, what)
    elif not record.flags & (WRITTEN | ATTRIBUTES):
        report.equal += 1
        report.equal_bytes += entry.size if entry.is_file else 0
        report.touched += found.is_directory and record.version != entry.version


def _local(store: Store, path: bytes, entry: Entry) -> Node | str:
    """The node that came from `path`; empty text if the container took it away, else what is wrong."""
    if not path:
        return store.tree.node(1)
    parent, _, name = path.rpartition(b"/")
    above = store.records.of_directory(parent)
    if above is None:
        return ""  # its directory is gone, which was judged when that came
    directory = store.tree.node(above.ino)
    if directory.parked:
        return ""
    try:
        node, _ = store.tree.child(directory, name)
    except FileNotFoundError:
        return "" if above.flags & NAMES else "is missing"
    record = node.record
    same = record is not None and (
        record.source == path
        or (entry.is_file and (record.device, record.version.inode) == (entry.device, entry.version.inode))
    )
    if not same:
        return "" if above.flags & NAMES else "is another entry"
    return node


def _attributes(store: Store, node: Node, entry: Entry) -> str:
    shown = store.content.attributes(node)
    record = node.record
    assert record is not None
    if stat.S_IFMT(shown.mode) != stat.S_IFMT(entry.mode):
        return "is of another type"
    powers = store.powers
    if shown.mode != powers.mode(entry.mode):
        return f"its mode is {shown.mode:o} and {entry.mode:o} on the source"
    if powers.privileged and (shown.uid, shown.gid) != (entry.uid, entry.gid):
        return "its owner differs"
    if shown.rdev != entry.rdev and stat.S_IFMT(entry.mode) in (stat.S_IFCHR, stat.S_IFBLK):
        return "its device number differs"
    if entry.is_symlink and store.content.target(node) != entry.target:
        return "its target differs"
    if entry.is_file and not record.flags & WRITTEN and shown.size != entry.size:
        return "its size differs"
    # A checkpoint makes a directory in the /tmp of a container that stands still, and removes it: the
    # time to show is still the one that was populated. Names, and what has them, are compared anyway.
    expected = record.version if node.is_directory else entry.version
    if not record.flags & (WRITTEN | NAMES) and shown.mtime_ns != expected.mtime_ns:
        return "its modification time differs"
    here = {name: store.content.get_xattr(node, name) for name in store.content.list_xattrs(node)}
    there = {name: value for name, value in entry.xattrs if powers.keeps(name)}
    if record.flags & WRITTEN and _CAPABILITY not in here:
        there.pop(_CAPABILITY, None)  # the kernel takes it from a file that is written or cut
    if here != there:
        return "its extended attributes differ"
    return ""


async def _digest(store: Store, node: Node) -> bytes:
    """XXH3-128 of a complete file's content."""
    file = os.open(b"/proc/self/fd/%d" % store.tree.file(node), os.O_RDONLY | os.O_NOATIME)

    def read() -> bytes:
        digest = xxhash.xxh3_128()
        offset = 0
        while data := os.pread(file, _READ_BYTES, offset):
            digest.update(data)
            offset += len(data)
        return digest.digest()

    try:
        return await in_thread(read)
    finally:
        os.close(file)
