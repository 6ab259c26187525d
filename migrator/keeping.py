"""What a container leaves on this host when it moves on: kept as long as asked, or while it comes back; then cleared.

It must not know how containers move, nor how they come back.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import structlog

from migrator.core.errors import MigrationUnknown, MigratorError
from migrator.core.phases import COMING, RELEASED, Phase, Step, source_step
from migrator.core.plan import Container, Options
from migrator.ports import Journal
from migrator.preparation import SourcePorts

log = structlog.get_logger(__name__)


def clear_away(ports: SourcePorts, container: Container, options: Options) -> None:
    """Take down what is left of a container that lived here; may be repeated."""
    ports.places.leave(container.bundle, keep=not options.remove_source)
    if options.remove_source:
        ports.disk.remove(container.root)


def last_step(ports: SourcePorts, migration: str, kept_until: float) -> Step:
    """What a migration that has released its target ends with; KEPT where it does not end yet.

    KEPT_UNTIL: end of the failback window, in seconds since the epoch.
    """
    arrival = ports.places.arrival(migration)
    if arrival in RELEASED:
        return Step.CAME_BACK
    if arrival in COMING or ports.clock.wall() < kept_until:
        return Step.KEPT
    return Step.RELEASED


class Keeper:
    """Migrations of this host that are in KEEP."""

    def __init__(self, ports: SourcePorts, journal: Journal) -> None:
        """None yet."""
        self._ports = ports
        self._journal = journal
        self._lock = threading.Lock()
        self._kept: set[str] = set()

    def keep(self, migration: str) -> None:
        """From now on, see `sweep`."""
        with self._lock:
            self._kept.add(migration)

    def sweep(self) -> None:
        """Clear away what need not be kept any more; what fails is tried again the next time."""
        with self._lock:
            kept = sorted(self._kept)
        for migration in kept:
            try:
                if self._end(migration):
                    self._forget(migration)
            except MigrationUnknown:  # somebody has removed its journal: then nobody knows what to clear away
                self._forget(migration)
            except MigratorError as error:
                log.error("cannot clear away", migration=migration, error=error.message)
            except Exception:  # a journal that lacks something; the others must not wait for it
                log.exception("cannot clear away", migration=migration)
                self._forget(migration)

    def _forget(self, migration: str) -> None:
        with self._lock:
            self._kept.discard(migration)

    def _end(self, migration: str) -> bool:
        entries = self._journal.read(migration)
        first = entries[0]
        step = last_step(self._ports, migration, kept_until(entries))
        if step is Step.KEPT:
            return False
        clear_away(self._ports, Container.from_json(first["container"]), Options(**first["options"]))
        self._journal.reopen(migration).write(source_step(Phase.KEEP, step))
        log.info("cleared away", migration=migration, step=str(step))
        return True


def kept_until(entries: Sequence[Mapping[str, Any]]) -> float:
    """End of the failback window that a journal tells, in seconds since the epoch; 0 if there is none."""
    return next((entry["kept_until"] for entry in entries if "kept_until" in entry), 0.0)
