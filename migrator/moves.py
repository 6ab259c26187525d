"""The migrations towards this host, as its agent remembers them. It must not know what happens to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from migrator.core import limits
from migrator.core.errors import MigrationUnknown, MigratorError, Refused
from migrator.core.hook import Mode
from migrator.core.identity import Identity
from migrator.core.phases import Hold, Word, target_step
from migrator.ports import Journal, Mounted, Record, Restore, TargetLink

log = structlog.get_logger(__name__)

UNDER_WAY = frozenset({Hold.PREPARED, Hold.RESTORING, Hold.HELD})
MAKING = frozenset({Hold.PREPARED, Hold.RESTORING})  # what is not whole yet can be taken apart while it is made
_ENDED = frozenset({Hold.DETACHED, Hold.LEFT, Hold.DISCARDED})
_CLAIMED = UNDER_WAY | {Hold.ABSENT}  # ABSENT: its preparation has only begun


@dataclass(slots=True)
class Move:
    """One migration towards this host. Its lock is held by every word that changes it, so words do not overlap."""

    migration: str
    container: str
    directory: str
    source_agent: str
    record: Record | None = None  # None until the first word that is worth remembering
    hold: Hold = Hold.ABSENT
    link: TargetLink | None = None
    mounted: Mounted | None = None
    restore: Restore | None = None
    identity: Identity | None = None
    ends: list[str] = field(default_factory=list)  # files that it had opened, and goes on writing to
    claimed: bool = False  # whether the directory is ours
    network: str = Mode.VETH
    lost: bool = False  # it was held, and the copy is gone
    leaving: bool = False  # its container has moved on, and what is here comes down
    lock: threading.RLock = field(default_factory=threading.RLock)

    def enter(self, word: Word, *, durable: bool = True, **facts: Any) -> None:
        """Go to the next state; it is journaled before it counts. DURABLE: but where power loss makes no difference."""
        hold = target_step(self.hold, word)
        assert self.record is not None
        if hold is not self.hold:
            self.record.write(hold, durable=durable, **facts)
            with suppress(Exception):  # whatever becomes of the log, the migration goes on
                log.info("state", migration=self.migration, container=self.container, state=str(hold))
        self.hold = hold


class Moves:
    """By their names; from any thread. Of those that have ended, the oldest are left to the journal."""

    def __init__(self, journal: Journal) -> None:
        """None is remembered."""
        self._journal = journal
        self._moves: dict[str, Move] = {}
        self._lock = threading.Lock()

    def add(self, move: Move) -> None:
        """Remember it."""
        with self._lock:
            self._add(move)

    def begin(self, move: Move) -> None:
        """Remember a new one, and lock it. Raises Refused if it was here before, or its container is under way."""
        with self._lock:
            if self._look_up(move.migration) is not None:
                raise Refused(f"migration {move.migration} was prepared or aborted here before")
            if any(each.container == move.container and each.hold in _CLAIMED for each in self._moves.values()):
                raise Refused(f"another migration of container {move.container} is under way here")
            self._add(move)
            move.lock.acquire()

    def shut(self, migration: str) -> Move | None:
        """The migration; if it is not known, None, and it cannot begin any more."""
        with self._lock:
            move = self._look_up(migration)
            if move is None:
                self._add(Move(migration, "", "", "", hold=Hold.DISCARDED))
            return move

    def remembered(self, migration: str) -> Move | None:
        """It, unless the journal alone may know of it."""
        with self._lock:
            return self._moves.get(migration)

    def find(self, migration: str) -> Move:
        """It. Raises MigrationUnknown."""
        with self._lock:
            move = self._look_up(migration)
        if move is None:
            raise MigrationUnknown(f"no migration {migration} is known here")
        return move

    @contextmanager
    def at(self, migration: str, *holds: Hold) -> Iterator[Move]:
        """The migration, locked, in one of HOLDS; raises Refused in any other."""
        move = self.find(migration)
        with move.lock:
            if move.hold not in holds:
                raise Refused(f"migration {migration} is '{move.hold}' here, not '{holds[0]}'")
            yield move

    def holds(self) -> list[str]:
        """Where each stands that is remembered."""
        with self._lock:
            return [str(move.hold) for move in self._moves.values()]

    def undecided(self) -> list[Move]:
        """Those whose outcome only the source knows."""
        with self._lock:
            return [move for move in self._moves.values() if move.hold in UNDER_WAY]

    def _add(self, move: Move) -> None:
        ended = [each.migration for each in self._moves.values() if each.hold in _ENDED]
        for migration in ended[: -limits.REMEMBERED]:
            del self._moves[migration]
        self._moves[move.migration] = move

    def _look_up(self, migration: str) -> Move | None:
        """One that has ended may be known from the journal alone."""
        if (move := self._moves.get(migration)) is not None:
            return move
        try:
            history = self._journal.read(migration)
        except MigratorError:
            return None
        if not history or history[0].get("side") != "target" or history[-1]["decision"] not in _ENDED:
            return None
        return Move(migration, history[0]["container"], "", "", hold=Hold(history[-1]["decision"]))
