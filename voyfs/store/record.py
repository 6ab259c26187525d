"""One entry of the source as the store remembers it, and its row in the database.

Knows nothing of directories, descriptors or the network; only inode numbers and values.
"""

from typing import Any

from voyfs.core.entry import Version
from voyfs.core.presence import Presence

# What the container changed; `voyfs verify` must not take it for a difference.
WRITTEN = 1  # content
ATTRIBUTES = 2  # owner, mode, xattrs, times
NAMES = 4  # entries of a directory

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE record (
    ino INTEGER PRIMARY KEY,   -- of the entry in data/; also its FUSE node id
    parent INTEGER NOT NULL,   -- where it was last seen: a hint, checked against the inode
    name BLOB NOT NULL,
    source BLOB NOT NULL,      -- path on the source, relative to the export's root
    mode INTEGER NOT NULL,     -- the source's
    device INTEGER NOT NULL,
    inode INTEGER NOT NULL,    -- with size, mtime, ctime: the source's version
    size INTEGER NOT NULL,
    mtime INTEGER NOT NULL,
    ctime INTEGER NOT NULL,
    blocks INTEGER NOT NULL,
    unseen INTEGER NOT NULL,   -- names of it on the source that are not populated yet
    populated INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    "limit" INTEGER NOT NULL,
    absent INTEGER NOT NULL,   -- bytes
    bits BLOB NOT NULL,        -- presence map; empty when nothing is present or absent = 0
    shown_mtime INTEGER,       -- what getattr reports while hydration disturbs the real one
    shown_ctime INTEGER,
    capability BLOB            -- security.capability, kept back: writing would drop it
);
-- Rows whose entries no checkpoint has made durable yet: made by populating, or changed by it (a directory that
-- was populated, a file that got another name). If power is lost they never were: see Records.
CREATE TABLE recent (
    ino INTEGER NOT NULL,
    generation INTEGER NOT NULL,  -- of the log, when it happened
    made INTEGER NOT NULL,
    unseen INTEGER NOT NULL,      -- before it
    PRIMARY KEY (ino, generation)
) WITHOUT ROWID;
CREATE INDEX record_absent ON record (absent) WHERE absent > 0;
CREATE INDEX record_links ON record (device, inode) WHERE mode & 61440 = 32768;
CREATE INDEX record_directories ON record (source) WHERE mode & 61440 = 16384;
"""

COLUMNS = (
    "ino, parent, name, source, mode, device, inode, size, mtime, ctime, blocks, unseen,"
    ' populated, flags, "limit", absent, bits, shown_mtime, shown_ctime, capability'
)


# A record is inserted whole, but once it exists only a checkpoint (or an fsync) may change what
# says that bytes are there: the second statement's columns, whose data it has synced before.
_DIRECT = (
    "source, mode, device, inode, size, mtime, ctime, blocks, unseen, populated, flags,"
    " shown_mtime, shown_ctime, capability"
)
UPSERT = (
    f"INSERT INTO record ({COLUMNS}) VALUES ({','.join('?' * 20)}) ON CONFLICT (ino) DO UPDATE"
    f" SET {', '.join(f'{column} = excluded.{column}' for column in _DIRECT.split(', '))}"
)
# Of the capability it says only that it went into the file with the last chunk: what the container did to it
# is written at once, and may be newer than these values.
VOUCH = (
    'UPDATE record SET parent = ?1, name = ?2, flags = ?3, "limit" = ?4, absent = ?5, bits = ?6, shown_mtime = ?7,'
    " shown_ctime = ?8, capability = CASE WHEN ?5 = 0 THEN NULL ELSE capability END WHERE ino = ?9"
)

# Before the row itself is written; the first change of a generation tells what was before it.
RECENT = "REPLACE INTO recent VALUES (?, ?, 1, 0)"
RECENT_CHANGE = "INSERT OR IGNORE INTO recent SELECT ino, ?, 0, unseen FROM record WHERE ino = ?"

# After a loss of power: the directories are populated again, and their entries made anew.
UNDO_RECENT = """
DELETE FROM record WHERE ino IN (SELECT ino FROM recent WHERE made);
UPDATE record SET
    populated = 0,
    unseen = (SELECT unseen FROM recent WHERE recent.ino = record.ino ORDER BY generation LIMIT 1)
    WHERE ino IN (SELECT ino FROM recent);
UPDATE record SET flags = flags & ~4, shown_mtime = mtime, shown_ctime = ctime
    WHERE ino IN (SELECT ino FROM recent) AND mode & 61440 = 16384;
DELETE FROM recent;
"""


def signed(number: int) -> int:
    """A u64 as SQLite's i64, same bits."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number


class Record:
    """What is known of one entry of the source, as it stands in the store.

    `mtime_ns` and `ctime_ns` are what getattr reports, or None when the backing file's own are
    right. `presence` is None for anything but a regular file.
    """

    __slots__ = (
        "blocks",
        "capability",
        "ctime_ns",
        "device",
        "flags",
        "ino",
        "linking",
        "mode",
        "mtime_ns",
        "name",
        "parent",
        "populated",
        "presence",
        "source",
        "unseen",
        "version",
    )

    def __init__(
        self,
        *,
        ino: int,
        parent: int,
        name: bytes,
        source: bytes,
        mode: int,
        device: int,
        version: Version,
        blocks: int,
        unseen: int,
        presence: Presence | None,
        populated: bool = False,
        flags: int = 0,
        mtime_ns: int | None = None,
        ctime_ns: int | None = None,
        capability: bytes | None = None,
    ) -> None:
        self.ino = ino
        self.parent = parent
        self.name = name
        self.source = source
        self.mode = mode
        self.device = device
        self.version = version
        self.blocks = blocks
        self.unseen = unseen
        self.linking = 0  # names of these that are being made: they exist already
        self.presence = presence
        self.populated = populated
        self.flags = flags
        self.mtime_ns = mtime_ns
        self.ctime_ns = ctime_ns
        self.capability = capability

    @property
    def complete(self) -> bool:
        """Nothing of its content is missing."""
        return self.presence is None or self.presence.complete

    @property
    def settled(self) -> bool:
        """Neither fetching nor populating will disturb the times of its backing entry any more."""
        return self.populated if self.mode & 0o170000 == 0o040000 else self.complete

    @property
    def absent_bytes(self) -> int:
        return 0 if self.presence is None else self.presence.absent_bytes

    def vouch(self) -> tuple[Any, ...]:
        """Parameters of VOUCH as things stand now."""
        row = self.row()
        return (row[1], row[2], row[13], row[14], row[15], row[16], row[17], row[18], row[0])

    def row(self) -> tuple[Any, ...]:
        version, presence = self.version, self.presence
        return (
            self.ino,
            self.parent,
            self.name,
            self.source,
            self.mode,
            signed(self.device),
            signed(version.inode),
            version.size,
            version.mtime_ns,
            version.ctime_ns,
            self.blocks,
            self.unseen,
            self.populated,
            self.flags,
            presence.limit if presence else 0,
            self.absent_bytes,
            b"" if self.complete or presence is None else bytes(presence),
            self.mtime_ns,
            self.ctime_ns,
            self.capability,
        )

    @classmethod
    def from_row(cls, row: tuple[Any, ...], chunk: int) -> "Record":
        """The inverse of `row`, for a store with chunks of `chunk` bytes."""
        presence = None
        if row[4] & 0o170000 == 0o100000:
            limit, absent, bits = row[14], row[15], row[16]
            presence = Presence(limit if absent else 0, chunk, bits)
        return cls(
            ino=row[0],
            parent=row[1],
            name=row[2],
            source=row[3],
            mode=row[4],
            device=unsigned(row[5]),
            version=Version(unsigned(row[6]), row[7], row[8], row[9]),
            blocks=row[10],
            unseen=row[11],
            populated=bool(row[12]),
            flags=row[13],
            presence=presence,
            mtime_ns=row[17],
            ctime_ns=row[18],
            capability=row[19],
        )


class Totals:
    """Regular files of the source that the store knows of, and what is missing of them."""

    __slots__ = ("absent_bytes", "bytes", "files", "incomplete_files")

    def __init__(self, files: int, size: int, incomplete_files: int, absent_bytes: int) -> None:
        self.files = files
        self.bytes = size
        self.incomplete_files = incomplete_files
        self.absent_bytes = absent_bytes

    def count(self, record: Record, sign: int) -> None:
        """`record` came (+1) or went (-1)."""
        if record.presence is not None:
            self.files += sign
            self.bytes += sign * record.version.size
            self.incomplete_files += sign * (not record.complete)
            self.absent_bytes += sign * record.absent_bytes

    def shrink(self, before: int, after: int) -> None:
        """A file lacks `after` bytes now and lacked `before`."""
        self.absent_bytes += after - before
        self.incomplete_files -= before > 0 and after == 0
