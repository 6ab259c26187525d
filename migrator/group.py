"""What a migration has to do with others: nothing, or all of a group with each other.

Drivers run in threads of their own; here they wait for each other, and here the one decision for all of them is made
(core.group). It must not know what a driver does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from migrator.core import limits
from migrator.core.errors import GroupGivenUp, MigratorError, Refused, describe
from migrator.core.group import AFTER, Ruling, Stop, Verdict, member_step, rule
from migrator.core.phases import Phase, Step, source_step
from migrator.ports import Record

SIDE: Final = "group"  # in its journal, where migrations have "source" or "target"
Check = Callable[[], None]
"""Raises what a driver has to stop for."""


class Company(Protocol):
    """Who decides with a migration."""

    deciding: threading.Condition  # its lock is held by whoever decides, or gives up

    @property
    def facts(self) -> Mapping[str, Any]:
        """For the first line of the migration's journal."""

    @property
    def committed(self) -> bool:
        """Whether it is decided elsewhere than in the migration's own journal."""

    def step(self, phase: Phase, step: Step) -> Phase:
        """The source's next state; raises Refused."""

    def meet(self, stop: Stop, check: Check) -> None:
        """Wait until all are at STOP; raises what CHECK does, and GroupGivenUp."""

    def decide(self, check: Check, write: Callable[[], None]) -> None:
        """Make the decision durable, WRITE is the migration's own line; raises what keeps it from being made."""

    def give_up(self, error: BaseException) -> None:
        """Nobody decides any more; raises Refused if it is decided."""


class Alone:
    """A migration that decides by itself."""

    committed = False

    facts: Mapping[str, Any]

    def __init__(self) -> None:
        """Nothing is decided."""
        self.facts = {}
        self.deciding = threading.Condition()

    def step(self, phase: Phase, step: Step) -> Phase:
        """See Company."""
        return source_step(phase, step)

    def meet(self, stop: Stop, check: Check) -> None:
        """See Company."""

    def decide(self, check: Check, write: Callable[[], None]) -> None:
        """See Company."""
        with self.deciding:
            check()
            write()

    def give_up(self, error: BaseException) -> None:
        """See Company."""


class Settled(Alone):
    """A member whose group was decided, or given up, in an earlier life of the agent."""

    def __init__(self, verdict: Verdict) -> None:
        """VERDICT: what its journal amounts to."""
        super().__init__()
        self._verdict = verdict
        self.committed = verdict is Verdict.COMMITTED

    def step(self, phase: Phase, step: Step) -> Phase:
        """See Company."""
        return member_step(phase, step, self._verdict)

    def decide(self, check: Check, write: Callable[[], None]) -> None:
        """See Company; there is nothing left to decide."""
        raise Refused("the group was decided before")


class Group:
    """Migrations that are decided together."""

    def __init__(self, name: str, migrations: Sequence[str], journal: Callable[[], Record]) -> None:
        """JOURNAL opens the group's, once there is something to write."""
        self.name = name
        self.verdict = Verdict.UNDECIDED
        self.changed = threading.Condition()
        self._migrations = tuple(migrations)
        self._journal = journal
        self._record: Record | None = None
        self._why: BaseException | None = None
        self._here: dict[Stop, set[str]] = {stop: set() for stop in Stop}
        self._members: list[Member] = []

    def member(self, migration: str, withdraw: Callable[[MigratorError], None]) -> Member:
        """WITHDRAW makes a member stop what it does, with an error, from another thread. Raises GroupGivenUp."""
        with self.changed:
            self._go_on()
            member = Member(self, migration, withdraw)
            self._members.append(member)
            return member

    def open(self) -> None:
        """Its journal is there before any member's: who finds none later knows that it is lost."""
        with self.changed:
            if self._record is None:
                record = self._journal()
                record.write(self.verdict, side=SIDE, members=list(self._migrations))
                self._record = record

    def meet(self, migration: str, stop: Stop, check: Check) -> None:
        """See Company."""
        with self.changed:
            self._here[stop].add(migration)
            self.changed.notify_all()
            while not self.all_at(stop):
                self._go_on()
                self._check(check, migration)
                self.changed.wait(limits.MEET_SECONDS)
            self._go_on()

    def meet_to_thaw(self, migration: str) -> None:
        """Wait for those that are on their way back, but not for ever: whoever is here can go on."""
        deadline = time.monotonic() + limits.THAW_SECONDS
        with self.changed:
            self._here[Stop.THAWING].add(migration)
            self.changed.notify_all()
            while not self._here[Stop.THAWING].issuperset(each.migration for each in self._members):
                if not self.changed.wait(deadline - time.monotonic()):
                    return

    def all_at(self, stop: Stop) -> bool:
        """Whether all have come there."""
        return self._here[stop].issuperset(self._migrations)

    def commit(self, migration: str, check: Check) -> None:
        """The one decision, made by whoever comes last. A write that fails leaves nothing in the journal."""
        self.meet(migration, Stop.HELD, check)
        with self.changed:
            self._go_on()
            if self.verdict is Verdict.UNDECIDED:
                self._check(check, migration)
                verdict = rule(self.verdict, Ruling.COMMIT)
                assert self._record is not None
                self._record.write(verdict)
                self.verdict = verdict

    def give_up(self, error: BaseException, but: str = "") -> None:
        """Nobody goes on, and all but BUT are told why, once."""
        with self.changed:
            self.verdict = rule(self.verdict, Ruling.GIVE_UP)
            if self._why is not None:
                return
            self._why = error
            others = [each for each in self._members if each.migration != but]
            self.changed.notify_all()
        for each in others:
            each.withdraw(self._given_up())

    def _check(self, check: Check, migration: str) -> None:
        """Whoever leaves a stop where it was counted has given up before anybody can pass it."""
        try:
            check()
        except BaseException as error:
            self.give_up(error, but=migration)
            raise

    def _go_on(self) -> None:
        if self.verdict is Verdict.GIVEN_UP:
            raise self._given_up()

    def _given_up(self) -> GroupGivenUp:
        assert self._why is not None
        told = describe(self._why)
        return GroupGivenUp(f"its group was given up: {told['error']}", remedy=told["remedy"])


class Member:
    """One of a group (Company)."""

    def __init__(self, group: Group, migration: str, withdraw: Callable[[MigratorError], None]) -> None:
        """See Group.member."""
        self.migration = migration
        self.withdraw = withdraw
        self.deciding = group.changed
        self._group = group

    @property
    def facts(self) -> Mapping[str, Any]:
        """See Company. Whoever writes them down needs the group's journal to be there."""
        self._group.open()
        return {"group": self._group.name}

    @property
    def committed(self) -> bool:
        """See Company."""
        return self._group.verdict is Verdict.COMMITTED

    def step(self, phase: Phase, step: Step) -> Phase:
        """See Company."""
        if step in AFTER and not self._group.all_at(AFTER[step]):
            raise Refused(f"'{step}' comes before all of the group are '{AFTER[step]}'")
        return member_step(phase, step, self._group.verdict)

    def meet(self, stop: Stop, check: Check) -> None:
        """See Company."""
        if stop is Stop.THAWING:
            self._group.meet_to_thaw(self.migration)
        else:
            self._group.meet(self.migration, stop, check)

    def decide(self, check: Check, write: Callable[[], None]) -> None:
        """See Company. Once the group's line is there, nothing of one member's can be in the way."""
        self._group.commit(self.migration, check)
        write()

    def give_up(self, error: BaseException) -> None:
        """See Company."""
        self._group.give_up(error, but=self.migration)
