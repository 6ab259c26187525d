"""What the journals of this host amount to: its own decisions, and those of the groups that they belong to.

It must not write any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from migrator.core.errors import MigrationUnknown
from migrator.core.group import Verdict, settled, verdict_of
from migrator.core.phases import DECIDED, ENDED, Outcome, Phase, outcome
from migrator.group import SIDE
from migrator.ports import Journal

Entries = Sequence[Mapping[str, Any]]


class Decisions:
    """Read anew each time."""

    def __init__(self, journal: Journal) -> None:
        """Nothing is read yet."""
        self._journal = journal

    def migrations(self) -> list[str]:
        """All of this host, oldest first."""
        return [name for name in self._journal.migrations() if self._journal.read(name)[0].get("side") != SIDE]

    def unended(self) -> list[tuple[str, Entries]]:
        """Those from this host that have not ended."""
        found: list[tuple[str, Entries]] = []
        for migration in self.migrations():
            entries = self._journal.read(migration)
            if entries[0].get("side") == "source" and entries[-1]["decision"] not in ENDED:
                found.append((migration, entries))
        return found

    def standing(self, entries: Entries) -> tuple[Phase, Verdict | None]:
        """Where an unended migration is to be picked up, and its group's verdict if that was asked.

        Raises MigrationUnknown, MigratorError where that is lost: nobody may go on, or back, then.
        """
        phase = Phase(entries[-1]["decision"])
        if "group" not in entries[0] or phase in DECIDED:
            return phase, None
        verdict = verdict_of(self._group(entries))
        return settled(phase, verdict), verdict

    def outcome_of(self, migration: str) -> Outcome:
        """For a target that asks."""
        try:
            entries = self._journal.read(migration)
            found = outcome([entry["decision"] for entry in entries])
            if found is Outcome.UNDECIDED and entries and Verdict.COMMITTED in self._group(entries):
                return Outcome.COMMITTED
            return found
        except MigrationUnknown:
            return Outcome.UNDECIDED

    def _group(self, entries: Entries) -> list[str]:
        """Decisions of the group of a migration; none where it has no group."""
        if "group" not in entries[0]:
            return []
        name = entries[0]["group"]
        decisions = [entry["decision"] for entry in self._journal.read(name)]
        if not decisions:  # it was written before its members' journals were made
            raise MigrationUnknown(f"the journal of group {name} is lost")
        return decisions
