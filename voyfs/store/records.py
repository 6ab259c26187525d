"""What the store remembers of each entry that came from the source, and how it lasts.

Two layers, because two kinds of death differ:

- `state/store.db` (SQLite, WAL) is durable. A chunk is recorded there as present only after
  its bytes were synced, so losing power can make a chunk absent again, never turn it to zeros.
- What populating makes is written there at once, but counts only when a checkpoint has synced the
  entries too (table `recent`). Until then a loss of power undoes it, and the directory is populated
  anew: a row without its entry would in the end speak for another file with the same inode.
- `state/recent-N` is a log in the page cache. It survives a killed daemon, not a lost power,
  and counts only while the machine's boot id is the one it was opened under. Every change that
  an answer to a caller depends on is in it before the answer is given.

A *checkpoint* moves recent changes into the database (see `Store.checkpoint`): rotate the log,
sync the data, write the rows, sync the database, drop the old log.

Knows nothing of directories, descriptors or the network; only inode numbers and values.
"""

import errno
import os
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voyfs.core.entry import Version
from voyfs.core.errors import StoreLayout
from voyfs.store.record import (
    COLUMNS,
    RECENT,
    RECENT_CHANGE,
    SCHEMA,
    UNDO_RECENT,
    UPSERT,
    VOUCH,
    Record,
    Totals,
    signed,
)
from voyfs.store.reserve import FULL, Reserve

LAYOUT = 2

_MARKS = struct.Struct("<cQqq")
_LONG_LOG = 1 << 20  # bytes; the next daemon reads it all, which takes some 50 ms
_NONE = -(1 << 63)  # no time: SQLite's smallest integer, 292 years before the epoch


@dataclass(frozen=True, slots=True)
class Pending:
    """Rows of a checkpoint under way, and the log generation that begins after them.

    `order` is their place among all rows that were taken to be written later (see `vouch`).
    """

    rows: list[tuple[Any, ...]]
    generation: int
    order: int


def _runs(indexes: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as (first, how many follow each other)."""
    first, count = -1, 0
    for index in indexes:
        if count and index == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = index, 1
    if count:
        yield first, count


def _attributes(record: Record) -> tuple[bytes, bytes]:
    """What the log says of its reported times and its flags."""
    mtime = _NONE if record.mtime_ns is None else record.mtime_ns
    ctime = _NONE if record.ctime_ns is None else record.ctime_ns
    return _MARKS.pack(b"T", record.ino, mtime, ctime), _MARKS.pack(b"F", record.ino, record.flags, 0)


def _parts(inos: list[int]) -> Iterator[list[int]]:
    """In parts that fit into one query: SQLite's default bound is 999 parameters."""
    return (inos[start : start + 500] for start in range(0, len(inos), 500))


class Records:
    """All records of a store; see the module's text for how they last."""

    def __init__(self, state: Path, chunk: int, boot_id: str) -> None:
        """Opens or makes the records in directory `state`.

        Raises StoreLayout for a database that another layout wrote.
        """
        self._state = state
        self._boot_id = boot_id
        self.loaded: dict[int, Record] = {}
        self._dirty: dict[int, Record] = {}
        self._pending: dict[int, Record] = {}  # of the checkpoint under way: not in the database yet
        self._order = 0  # of rows taken to be written later; each is newer than those before
        self._committed = 0  # the order of the last checkpoint's rows
        self._vouched: dict[int, int] = {}  # the order of what was written since, by inode
        self.unsynced = False  # the database holds commits that a power loss would undo
        self._db = sqlite3.connect(state / "store.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        # The WAL is folded in when it has grown to 16 MiB; each folding syncs and stalls.
        self._db.execute("PRAGMA wal_autocheckpoint = 4096")
        # By what is in it, not by its name: power may have been lost before anything in it was durable.
        if not self._db.execute("SELECT 1 FROM sqlite_master").fetchone():
            self._db.executescript("BEGIN;" + SCHEMA + "COMMIT;")
            self.set_meta(layout=LAYOUT, chunk=chunk, generation=0, boot_id=boot_id)
        layout = self.meta("layout")
        if layout != LAYOUT:
            raise StoreLayout(
                f"the store has layout {layout} and this voyfs reads {LAYOUT}; use the version"
                " that made it, or mount with a new store"
            )
        self.chunk = int(self.meta("chunk"))
        self.survived = self.meta("boot_id") == boot_id
        if not self.survived:
            self._db.executescript("BEGIN;" + UNDO_RECENT + "COMMIT;")
            self.unsynced = True
        # Directories populated and files linked that no checkpoint has vouched for: inode -> generation.
        self.recent: dict[int, int] = dict(
            self._db.execute("SELECT ino, max(generation) FROM recent WHERE NOT made GROUP BY ino")
        )
        row = self._db.execute(
            "SELECT count(*), total(size), total(absent > 0), total(absent) FROM record WHERE mode & 61440 = 32768"
        ).fetchone()
        self.totals = Totals(*(int(number) for number in row))
        self._generation = int(self.meta("generation"))
        # Never closed while the database is open: closing any descriptor of a file drops the locks (fcntl) that this
        # process has on it, SQLite's too, and whoever looks into the database then removes its log on leaving.
        self._reserve = Reserve(state / "reserve")
        self._reserve.put_by()
        self._db_file = os.open(state / "store.db", os.O_RDONLY)
        self._log = -1
        self._logged = 0  # bytes
        # the last note of each directory by the daemon before this one: (name, subject)
        self.intents: dict[int, tuple[int, int]] = {}
        self._recover()
        self._log = self._create_log(self._generation)

    # -- meta -------------------------------------------------------------------------------

    def meta(self, key: str) -> Any:
        """The value kept under `key`, None if there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def set_meta(self, **values: Any) -> None:
        with self._transaction():
            self._put_meta(**values)

    def _put_meta(self, **values: Any) -> None:
        self._db.executemany("REPLACE INTO meta VALUES (?, ?)", values.items())

    # -- reading ----------------------------------------------------------------------------

    def get(self, ino: int) -> Record | None:
        """The record of `ino`; the same object as long as it is loaded."""
        record = self.loaded.get(ino)
        if record is not None:
            return record
        found = self._select("ino = ?", (ino,))
        return found[0] if found else None

    def get_many(self, inos: Iterable[int]) -> None:
        """Loads the records of `inos` with few queries."""
        for part in _parts([ino for ino in inos if ino not in self.loaded]):
            self._select(f"ino IN ({','.join('?' * len(part))})", part)

    def places(self, inos: Iterable[int]) -> dict[int, tuple[int, bytes]]:
        """Where those of `inos` that have records were last seen: (parent, name). Loads none."""
        found = {}
        for part in _parts(list(inos)):
            query = f"SELECT ino, parent, name FROM record WHERE ino IN ({','.join('?' * len(part))})"
            found.update({ino: (parent, name) for ino, parent, name in self._db.execute(query, part)})
            loaded = [self.loaded[ino] for ino in part if ino in self.loaded]
            found.update({record.ino: (record.parent, record.name) for record in loaded})
        return found

    def of_link(self, device: int, version: Version) -> Record | None:
        """The record of the regular file on the source's `device` that is of `version`."""
        found = self._select(
            "device = ? AND inode = ? AND size = ? AND mtime = ? AND ctime = ? AND mode & 61440 = 32768",
            (signed(device), signed(version.inode), version.size, version.mtime_ns, version.ctime_ns),
        )
        return found[0] if found else None

    def of_file(self, device: int, inode: int) -> list[Record]:
        """Records of the regular file `inode` on the source's `device`, of whatever version."""
        return self._select("device = ? AND inode = ? AND mode & 61440 = 32768", (signed(device), signed(inode)))

    def of_directory(self, source: bytes) -> Record | None:
        """The record of the directory whose path on the source is `source`."""
        found = self._select("source = ? AND mode & 61440 = 16384", (source,))
        return found[0] if found else None

    def directories(self, *, populated: bool) -> list[int]:
        """Inodes of directories of the source, parents before children."""
        rows = self._db.execute(
            "SELECT ino FROM record WHERE mode & 61440 = 16384 AND populated = ? ORDER BY length(source), source",
            (populated,),
        )
        return [ino for (ino,) in rows]

    def incomplete(self, after: int, count: int) -> list[int]:
        """Inodes above `after` of up to `count` files that lack bytes, as last written down."""
        rows = self._db.execute(
            "SELECT ino FROM record WHERE absent > 0 AND ino > ? ORDER BY ino LIMIT ?",
            (after, count),
        )
        return [ino for (ino,) in rows]

    def after(self, ino: int, count: int) -> list[Record]:
        """Up to `count` records with inodes above `ino`, ascending."""
        return self._select("ino > ? ORDER BY ino LIMIT ?", (ino, count))

    def integrity(self) -> str:
        """ "ok", or what SQLite finds wrong with the database."""
        row = self._db.execute("PRAGMA quick_check(1)").fetchone()
        return str(row[0])

    def _select(self, where: str, parameters: Iterable[Any]) -> list[Record]:
        rows = self._db.execute(f"SELECT {COLUMNS} FROM record WHERE {where}", tuple(parameters))
        return [self._load(row) for row in rows.fetchall()]

    def _load(self, row: tuple[Any, ...]) -> Record:
        record = self.loaded.get(row[0])
        if record is None:
            record = self.loaded[row[0]] = Record.from_row(row, self.chunk)
        return record

    # -- changing ---------------------------------------------------------------------------

    def add(self, records: Iterable[Record], changed: Iterable[Record] = (), *, lasting: bool = False) -> None:
        """Writes new records and `changed` ones in one transaction.

        Unless `lasting` (their entries are durable), they count only until power is lost, or from the
        next checkpoint on.
        """
        new, old = list(records), list(changed)
        with self._transaction():
            if not lasting:
                self._db.executemany(RECENT, [(record.ino, self._generation) for record in new])
                self._db.executemany(RECENT_CHANGE, [(self._generation, record.ino) for record in old])
            directories = [record for record in old if record.presence is None]
            self._db.executemany(UPSERT, [record.row() for record in (*new, *directories)])
            # Of a file no more than its names: the times and the capability that go with its last
            # chunk are not to be durable before that chunk is.
            files = [(record.unseen, record.ino) for record in old if record.presence is not None]
            self._db.executemany("UPDATE record SET unseen = ? WHERE ino = ?", files)
        for record in new:
            self.loaded[record.ino] = record
            self.totals.count(record, 1)
        for record in old:
            self.recent[record.ino] = self._generation

    def remove(self, ino: int) -> None:
        """Forgets the record of `ino`; its inode is another file's, or nobody's."""
        with self._transaction():
            self._db.execute("DELETE FROM record WHERE ino = ?", (ino,))
            self._db.execute("DELETE FROM recent WHERE ino = ?", (ino,))
        self._forget(ino)

    def rewrite(self, record: Record) -> None:
        """Writes the whole record, presence map included: only while nobody uses the store."""
        with self._transaction():
            self._db.execute(VOUCH, record.vouch())
            self._db.execute(UPSERT, record.row())

    def _forget(self, ino: int) -> None:
        """The record is gone from the database. Its inode must not be free for reuse before `sync`."""
        record = self.loaded.pop(ino, None)
        if record is not None:
            self.totals.count(record, -1)
        self._dirty.pop(ino, None)

    def mark(self, record: Record, chunks: Iterable[int]) -> None:
        """Makes `chunks` present; whoever calls has put their bytes into the backing file."""
        self.mark_all([(record, chunks)])

    def mark_all(self, marks: Iterable[tuple[Record, Iterable[int]]]) -> None:
        """As `mark` of each, or of none when it fails."""
        absent = []
        for record, chunks in marks:
            presence = record.presence
            assert presence is not None
            if missing := presence.missing(chunks):
                absent.append((record, presence, missing))
        # noted first: what is in memory alone would be forgotten by a killed daemon
        self._note(
            *(
                (record, _MARKS.pack(b"P", record.ino, first, count))
                for record, _, missing in absent
                for first, count in _runs(missing)
            )
        )
        for _, presence, missing in absent:
            before = presence.absent_bytes
            for index in missing:
                presence.mark(index)
            self.totals.shrink(before, presence.absent_bytes)

    def lower(self, record: Record, limit: int) -> None:
        """The container cut the file to `limit` bytes."""
        presence = record.presence
        assert presence is not None
        if limit >= presence.limit:
            return
        self._note((record, _MARKS.pack(b"L", record.ino, limit, 0)))
        before = presence.absent_bytes
        presence.lower(limit)
        self.totals.shrink(before, presence.absent_bytes)

    def intend(self, ino: int, name: int, subject: int) -> None:
        """Notes what is about to be done to directory `ino` (see `intents`)."""
        self._append(_MARKS.pack(b"I", ino, name, subject))

    def touched(self, *records: Record) -> None:
        """Their reported times or their flags changed."""
        self._note(*((record, entry) for record in records for entry in _attributes(record)))

    def capability_given(self, record: Record) -> None:
        """The file itself has its capability from now on. Or the next daemon would give it once more,
        though the container may have removed it."""
        self._note((record, _MARKS.pack(b"C", record.ino, 0, 0)))
        record.capability = None

    def moved(self, record: Record) -> None:
        """Only a hint changed: worth writing down some time, not worth a log entry."""
        self._dirty[record.ino] = record

    def save(self, record: Record) -> None:
        """Writes at once what the log has no entry for (not the presence map)."""
        self._write([record.row()])

    def forget_unseen(self) -> None:
        """No further names of known files will come from the source."""
        with self._transaction():
            self._db.execute("UPDATE record SET unseen = 0 WHERE unseen > 0")
        for record in self.loaded.values():
            record.unseen = 0

    def snapshot(self, record: Record) -> tuple[int, tuple[Any, ...]] | None:
        """What `vouch` is to write once the file's data is synced; None if the database has it."""
        if record.ino not in self._dirty and record.ino not in self._pending:
            return None
        self._order += 1
        return self._order, record.vouch()

    def vouch(self, order: int, parameters: tuple[Any, ...]) -> None:
        """Writes what `snapshot` gave, unless something newer was written meanwhile."""
        ino = parameters[-1]
        if order > max(self._committed, self._vouched.get(ino, 0)):
            self._with_reserve(lambda: self._vouch(parameters))
            self._vouched[ino] = order

    def _vouch(self, parameters: tuple[Any, ...]) -> None:
        with self._transaction():
            self._db.execute(VOUCH, parameters)

    def _note(self, *entries: tuple[Record, bytes]) -> None:
        for record, _ in entries:
            assert self.loaded.get(record.ino) is record, "two records of one entry would drift apart"
        if entries:
            self._append(b"".join(entry for _, entry in entries))
            self._dirty.update((record.ino, record) for record, _ in entries)

    def _append(self, entries: bytes) -> None:
        """Adds to the log all or nothing: a torn entry would garble those after it."""
        while True:
            try:
                count = os.write(self._log, entries)
            except OSError as error:
                if error.errno not in FULL or not self._reserve.give():
                    raise
                continue
            if count == len(entries):
                self._logged += count
                return
            os.ftruncate(self._log, os.fstat(self._log).st_size - count)
            if not self._reserve.give():
                raise OSError(errno.ENOSPC, "no space for the store's records")

    def _write(self, rows: list[tuple[Any, ...]]) -> None:
        with self._transaction():
            self._db.executemany(UPSERT, rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that the block writes, or nothing. Raises OSError for what the disk refuses."""
        try:
            self._db.execute("BEGIN")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # SQLite itself may have gone back already
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            full = error.sqlite_errorcode == sqlite3.SQLITE_FULL
            raise OSError(errno.ENOSPC if full else errno.EIO, f"the store's records: {error}") from error
        self.unsynced = True

    def _with_reserve(self, act: Callable[[], None]) -> None:
        """Whoever waits for it to last has no other way to make room."""
        while True:
            try:
                return act()
            except OSError as error:
                if error.errno not in FULL or not self._make_room():
                    raise

    def _make_room(self) -> bool:
        """Frees SQLite's log by folding it in, which syncs; as long as that does not fit, a piece of the reserve."""
        log = os.stat(self._state / "store.db-wal").st_size
        if not 0 < log <= self._reserve.size:
            return self._reserve.give()
        while True:
            try:
                self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                return True
            except sqlite3.OperationalError:  # the database itself grows by what is new in the log
                if not self._reserve.give():
                    return False

    def evict(self, ino: int) -> None:
        """Forgets the loaded object of `ino` unless something about it is yet to be written."""
        if ino not in self._dirty and ino not in self._pending:
            self.loaded.pop(ino, None)

    # -- lasting ----------------------------------------------------------------------------

    @property
    def dirty(self) -> list[Record]:
        """Records that changed since the last checkpoint began."""
        return list(self._dirty.values())

    @property
    def log_is_long(self) -> bool:
        """Whether it is worth a new one, even where nothing else changed: notes of intents add up."""
        return self._logged > _LONG_LOG

    def rotate(self) -> Pending:
        """Begins a checkpoint: what changed until now; later changes go to a new log."""
        log = self._create_log(self._generation + 1)
        os.close(self._log)
        self._log = log
        self._logged = 0
        self._generation += 1
        self._order += 1
        rows = [record.vouch() for record in self._dirty.values()]
        self._pending, self._dirty = self._dirty, {}
        return Pending(rows, self._generation, self._order)

    def commit(self, pending: Pending, gone: list[int]) -> None:
        """Writes what `rotate` gave, once its data is synced, and removes the records `gone`."""
        for ino in gone:
            self.get(ino)  # loaded, so that it can be counted out
        self._with_reserve(lambda: self._commit(pending, gone))
        self.recent = {ino: at for ino, at in self.recent.items() if at >= pending.generation}
        self._pending = {}
        self._committed = pending.order
        self._vouched.clear()
        for ino in gone:
            self._forget(ino)

    def _commit(self, pending: Pending, gone: list[int]) -> None:
        with self._transaction():
            self._db.executemany(VOUCH, pending.rows)
            self._db.executemany("DELETE FROM record WHERE ino = ?", [(ino,) for ino in gone])
            self._db.execute("DELETE FROM recent WHERE generation < ?", (pending.generation,))
            self._put_meta(generation=pending.generation)

    def put_by(self) -> None:
        """Makes the reserve whole again, where there is space for it."""
        self._reserve.put_by()

    def give_up(self) -> None:
        """The checkpoint under way failed: what it was to write is still to be written."""
        self._dirty = self._pending | self._dirty
        self._pending = {}

    def sync(self) -> None:
        """Makes every commit so far durable. Slow (fsync); any thread may call it."""
        log = os.open(self._state / "store.db-wal", os.O_RDONLY)  # which SQLite takes no locks on
        try:
            os.fdatasync(log)
        finally:
            os.close(log)
        os.fdatasync(self._db_file)

    def drop_logs_before(self, generation: int) -> None:
        for old, path in self._logs():
            if old < generation:
                path.unlink()

    def close(self) -> None:
        self._db.close()
        os.close(self._db_file)
        os.close(self._log)
        self._reserve.close()

    # -- the log ----------------------------------------------------------------------------

    def _log_path(self, generation: int) -> Path:
        return self._state / f"recent-{generation}"

    def _logs(self) -> Iterator[tuple[int, Path]]:
        for path in self._state.glob("recent-*"):
            yield int(path.name.removeprefix("recent-")), path

    def _recover(self) -> None:
        """Takes over what the last daemon logged, if this is still the boot that it lived in."""
        logs = sorted(log for log in self._logs())
        if self.survived:
            for generation, path in logs:
                if generation >= self._generation:
                    self._replay(path)
                    self._generation = generation + 1
        else:
            for _, path in logs:
                path.unlink()
            self.set_meta(boot_id=self._boot_id)

    def _replay(self, path: Path) -> None:
        log = path.read_bytes()
        # a daemon killed inside write(2) leaves whole entries only: the kernel finishes the copy
        for kind, ino, first, second in _MARKS.iter_unpack(log[: len(log) // _MARKS.size * _MARKS.size]):
            if kind == b"I":
                self.intents[ino] = (first, second)
                continue
            record = self.get(ino)
            if record is None:
                continue
            if record.presence is not None and kind in b"PL":
                before = record.absent_bytes
                if kind == b"L":
                    record.presence.lower(first)
                else:
                    for index in range(first, first + second):
                        record.presence.mark(index)
                self.totals.shrink(before, record.absent_bytes)
            elif kind == b"T":
                record.mtime_ns = None if first == _NONE else first
                record.ctime_ns = None if second == _NONE else second
            elif kind == b"F":
                record.flags = first
            elif kind == b"C":
                record.capability = None
            self._dirty[ino] = record

    def _create_log(self, generation: int) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_TRUNC
        return os.open(self._log_path(generation), flags, 0o600)
