"""Empties this host: every running container moves to one of some targets, a few at a time, whatever becomes of each.

Nothing of it is remembered. What has moved is not here any more and what is on its way is joined, so it can be begun
again at any time. It must not know how commands arrive, nor how a migration works.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from migrator.core import limits
from migrator.core.draining import First, Leaving, by_load, in_order, priority_of
from migrator.core.errors import Busy, MigratorError, Refused, by_kind, describe
from migrator.core.plan import Options
from migrator.core.report import Event, after, begun, brief, nowhere
from migrator.migrations import Migrations
from migrator.moves import Moves
from migrator.ports import Clock, Runtime

LIVE: Final = frozenset({"running", "paused"})  # what is created or stopped has nothing that could move


@dataclass(frozen=True, slots=True)
class Wish:
    """What the user wants; raises Refused beyond the limits."""

    targets: tuple[str, ...]  # as typed
    options: Options
    first: First = First.URGENT
    parallel: int = limits.DRAIN_DEFAULT

    def __post_init__(self) -> None:
        """Whoever made it may be anybody."""
        if not 1 <= self.parallel <= limits.DRAIN_PARALLEL:
            raise Refused(f"{self.parallel} at once is not between 1 and {limits.DRAIN_PARALLEL}")
        if not 1 <= len(self.targets) <= limits.DRAIN_TARGETS:
            raise Refused(f"{len(self.targets)} targets are not between 1 and {limits.DRAIN_TARGETS}")


class Drain:
    """One emptying."""

    def __init__(self, migrations: Migrations, runtime: Runtime, coming: Moves, clock: Clock, wish: Wish) -> None:
        """Nothing happens before `run`."""
        self._migrations = migrations
        self._runtime = runtime
        self._coming = coming
        self._clock = clock
        self._wish = wish
        self._told: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._loads: Counter[str] = Counter()  # how many are on their way to each target

    def run(self) -> Iterator[Event]:
        """What happens, as it does: the order, events of the migrations, the end of each container, and then all ends.

        Who stops listening begins no further container; those on their way go on.
        """
        waiting = deque(in_order(self._find(), self._wish.first))
        yield {"event": "drain", "containers": [each.name for each in waiting], "targets": list(self._wish.targets)}
        ends: list[Event] = []
        under_way = 0
        while waiting or under_way:
            while waiting and under_way < self._wish.parallel:
                self._start(waiting.popleft())
                under_way += 1
            event = self._told.get()
            yield event
            if event["event"] == "container":
                under_way -= 1
                ends.append(event)
        yield {"event": "drained", "containers": brief(ends)}

    def _find(self) -> list[Leaving]:
        """Whoever is to go: also those whose copy here is gone already, while their disk is still needed."""
        found = {name: Leaving(name, migration=migration) for name, migration in self._migrations.under_way().items()}
        coming = {move.container: move.migration for move in self._coming.undecided()}
        for each in self._runtime.containers():
            name = str(each["id"])
            if each["status"] in LIVE and name not in found:
                found[name] = self._look_at(name, coming.get(name))
        return list(found.values())

    def _look_at(self, name: str, coming: str | None) -> Leaving:
        if coming is not None:
            problem = f"container {name} is on its way to this host"
            return Leaving(name, why_not=Busy(problem, remedy=f"see 'migrator status {coming}', and drain again"))
        try:
            container = self._runtime.inspect(name)
        except MigratorError as error:
            return Leaving(name, why_not=error)
        return Leaving(name, priority_of(container.config), container.memory_bytes)

    def _start(self, each: Leaving) -> None:
        try:
            threading.Thread(target=self._move, args=(each,), name=f"drain-{each.name}", daemon=True).start()
        except RuntimeError as error:  # no thread can be had
            self._told.put({**nowhere(each.name), **describe(error)})

    def _move(self, each: Leaving) -> None:
        """To its end, which is told last."""
        end = nowhere(each.name)
        target = ""
        try:
            if each.why_not is not None:
                raise each.why_not
            migration = each.migration
            if not migration:
                target, migration = self._begin(each.name)
            end = begun(each.name, migration, joined=not target)
            for event in self._migrations.follow(migration):
                end = after(end, event)
                if event["event"] not in ("result", "error"):
                    self._told.put({**event, "container": each.name})
        except Exception as error:
            end |= describe(error)
        finally:
            if target:
                self._count_off(target)
            self._told.put(end)

    def _begin(self, name: str) -> tuple[str, str]:
        """The target that takes it, counted, and the migration; no target if somebody else had begun one.

        Raises why none takes it.
        """
        refusals: dict[str, MigratorError] = {}
        while untried := [target for target in self._wish.targets if target not in refusals]:
            if self._clock.wait(0):
                raise MigratorError("the agent is being stopped", remedy="start it, and drain again")
            with self._lock:
                target = by_load(untried, self._loads)[0]
                self._loads[target] += 1
            try:
                self._check(name, target)
                return target, self._migrations.start(name, target, self._wish.options)
            except Busy:
                self._count_off(target)
                if (migration := self._migrations.under_way().get(name)) is not None:
                    return "", migration
                raise
            except MigratorError as error:
                self._count_off(target)
                refusals[target] = error
        raise _summed(refusals)

    def _count_off(self, target: str) -> None:
        with self._lock:
            self._loads[target] -= 1

    def _check(self, name: str, target: str) -> None:
        """Raises the first failure."""
        for row in self._migrations.check(name, target, self._wish.options)["checks"]:
            if row["state"] == "fails":
                raise by_kind(row["kind"], row["problem"], remedy=row["remedy"])


def _summed(refusals: Mapping[str, MigratorError]) -> MigratorError:
    """Why no target takes it, as one error: what all say alike, once."""
    first = next(iter(refusals.values()))
    if len({error.message for error in refusals.values()}) == 1:
        return first
    said = "; ".join(f"{target}: {error.message}" for target, error in refusals.items())
    return type(first)(said, remedy=first.remedy)
