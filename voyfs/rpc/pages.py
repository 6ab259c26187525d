"""The exported tree as messages: pages of directories, walks, digests.

The server's side only; `assembly` is the reader of these.
"""

import stat
from collections.abc import Callable, Iterable, Iterator

from voyfs.core.entry import Entry
from voyfs.core.limits import PAGE_BYTES, PAGE_ENTRIES
from voyfs.core.touched import Touched
from voyfs.rpc.generated import voyfs_pb2 as pb
from voyfs.rpc.reader import open_file
from voyfs.rpc.tree import Tree, TreeError, Trouble
from voyfs.rpc.wire import entry_to_wire

_REASONS = {
    Trouble.CHANGED: pb.CHANGED,
    Trouble.MISSING: pb.MISSING,
    Trouble.REFUSED: pb.REFUSED,
    Trouble.UNREADABLE: pb.UNREADABLE,
}


def failure_to_wire(error: TreeError, file: int = 0) -> pb.Failure:
    detail = str(error).encode("utf-8", "backslashreplace").decode()
    return pb.Failure(file=file, reason=_REASONS[error.trouble], detail=detail)


def pages(tree: Tree, path: bytes, inode: int) -> Iterator[pb.Listing]:
    """The entries of one directory in pages; a failure, also a late one, ends them."""
    found = inode
    try:
        with tree.directory(path, inode) as (found, entries):
            yield from _pages(path, found, entries)
    except TreeError as error:
        yield pb.Listing(path=path, inode=found, failure=failure_to_wire(error), last=True)


def _pages(path: bytes, inode: int, entries: Iterator[Entry]) -> Iterator[pb.Listing]:
    page = pb.Listing(path=path, inode=inode)
    size = 0
    for entry in entries:
        wire = entry_to_wire(entry)
        length = wire.ByteSize()
        if size and (size + length > PAGE_BYTES or len(page.entries) == PAGE_ENTRIES):
            yield page
            page = pb.Listing(path=path, inode=inode)
            size = 0
        page.entries.append(wire)
        size += length
    page.last = True
    yield page


def walk(tree: Tree, path: bytes, inode: int) -> Iterator[pb.Listing]:
    """The pages of every directory at or below `path`, parents first.

    No descriptor is held between directories: each is opened by its path from the root, so a
    walk that takes hours needs nothing but the names of what is still to come.
    """
    pending = [(path, inode)]
    while pending:
        directory, expected = pending.pop()
        for page in pages(tree, directory, expected):
            prefix = directory + b"/" if directory else b""
            pending.extend(
                (prefix + entry.name, entry.version.inode) for entry in page.entries if stat.S_ISDIR(entry.mode)
            )
            yield page


def digests(tree: Tree, path: bytes, alive: Callable[[], bool]) -> Iterator[pb.DigestReply]:
    """A digest for every entry at or below `path`, parents first. Ends when not `alive`."""
    try:
        top = tree.stat(path)
    except TreeError as error:
        yield pb.DigestReply(path=path, failure=failure_to_wire(error))
        return
    yield _digest(tree, path, top, alive)
    pending = [path] if top.is_directory else []
    while pending:
        directory = pending.pop()
        prefix = directory + b"/" if directory else b""
        try:
            with tree.directory(directory, 0) as (_, entries):
                for entry in entries:
                    if not alive():
                        return
                    below = prefix + entry.name
                    if entry.is_directory:
                        pending.append(below)
                    yield _digest(tree, below, entry, alive)
        except TreeError as error:
            yield pb.DigestReply(path=directory, failure=failure_to_wire(error))


def changed_pages(touched: Iterable[Touched], inodes: Iterable[int]) -> Iterator[pb.ChangesReply]:
    """What was touched, directory by directory, then `inodes`: fewer than fill a message."""
    page = pb.ChangesReply()
    size = 0
    for each in touched:
        wire = page.touched.add(path=each.path)
        size += len(each.path)
        for name in each.names:
            if size > PAGE_BYTES:
                yield page
                page = pb.ChangesReply()
                wire = page.touched.add(path=each.path)
                size = len(each.path)
            wire.names.append(name)
            size += len(name) + 8
    yield page
    yield pb.ChangesReply(inodes=inodes, last=True)


def _digest(tree: Tree, path: bytes, entry: Entry, alive: Callable[[], bool]) -> pb.DigestReply:
    reply = pb.DigestReply(path=path, entry=entry_to_wire(entry))
    if entry.is_file:
        try:
            with open_file(tree, path, entry.version) as file:
                reply.content = file.digest(alive)
        except TreeError as error:
            reply.failure.CopyFrom(failure_to_wire(error))
    return reply
