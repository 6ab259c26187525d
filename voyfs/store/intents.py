"""What a daemon was about to do to a directory, so that the next one does not do it twice.

A daemon may be killed after it changed a name and before it answered. The kernel then sends the
call again, and a second mkdir would fail with EEXIST, a second unlink with ENOENT, though the
caller is owed the first one's success.

The kernel holds a directory's lock for the whole of a call that changes its names, so at most one
such call per directory can be unanswered, and it is the last one that the directory saw. So each
change first notes (in the log that survives a killed daemon) what it is about to do, and the next
daemon keeps the last note of each directory. When the kernel says that it sends a call again, the
note and the state of the directory tell whether it was done: nobody else can have changed it.
"""

import xxhash

from voyfs.core.changes import Change
from voyfs.store.records import Records


def _hash(name: bytes) -> int:
    """64 bits as a signed number, as the log has them."""
    return xxhash.xxh3_64_intdigest(name) - (1 << 63)


class Intents:
    def __init__(self, records: Records) -> None:
        self._records = records
        self._again: set[tuple[Change, int, bytes]] = set()

    def sent_again(self, change: Change, ino: int, name: bytes) -> None:
        """The kernel sends this call again; it was not answered."""
        self._again.add((change, ino, name))

    def intend(self, change: Change, ino: int, name: bytes, subject: int = 0) -> None:
        """`name` in directory `ino` is about to be changed; `subject` is the inode that it is about."""
        self._records.intend(ino, _hash(name), subject << 8 | change)

    def begun(self, change: Change, ino: int, name: bytes) -> int | None:
        """Asked once for each call: the subject if the last daemon had begun this very one, else None.

        None as well when it is an ordinary call, which nearly all are.
        """
        if not self._again:
            return None
        key = (change, ino, name)
        if key not in self._again:
            return None
        self._again.discard(key)
        noted = self._records.intents.get(ino)
        if noted is None or noted[0] != _hash(name) or noted[1] & 0xFF != change:
            return None
        return noted[1] >> 8

    def is_again(self, change: Change, ino: int, name: bytes) -> bool:
        """Asked once: whether this call is sent again, begun or not."""
        key = (change, ino, name)
        found = key in self._again
        self._again.discard(key)
        return found
