"""All migrations of this host: starts them, keeps what they tell, and picks up after a restart what was left.

It must not know runc, netlink, voyfs or gRPC, nor how commands arrive; a peer is made by a function it is given.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from structlog.contextvars import bind_contextvars

from migrator.chronicle import Chronicle
from migrator.core import limits
from migrator.core.advice import advise, not_picked_up, too_late
from migrator.core.errors import Busy, MigrationUnknown, MigratorError, Refused, by_kind, describe
from migrator.core.group import Verdict
from migrator.core.identity import Identity
from migrator.core.phases import DECIDED, ENDED, Outcome, Phase
from migrator.core.plan import Container, Options
from migrator.decisions import Decisions
from migrator.driver import Driver, Join
from migrator.exports import Exports
from migrator.feed import Feed
from migrator.group import SIDE, Group, Settled
from migrator.holder import Holder
from migrator.keeping import Keeper, kept_until
from migrator.ports import AskingPeer, Journal, Peer
from migrator.preparation import SourcePorts, Task, survey
from migrator.tally import Tally

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Here:
    """How other hosts reach this one, when they look from a given address."""

    host: str
    agent: str  # HOST:PORT


Connect = Callable[[str], AskingPeer]
"""Makes a peer for a target as the user typed it; raises MigratorError."""


class Migrations:
    """Those that this host drives, and the questions about those that it holds."""

    def __init__(
        self,
        ports: SourcePorts,
        journal: Journal,
        holder: Holder,
        connect: Connect,
        here: Callable[[str], Here],
    ) -> None:
        """HERE tells where this host is, seen from a peer's address."""
        self._ports = ports
        self._journal = journal
        self._decisions = Decisions(journal)
        self._holder = holder
        self._connect = connect
        self._here = here
        self.tally = Tally()
        self._keeper = Keeper(ports, journal)
        self._lock = threading.Lock()
        self._feeds: dict[str, Feed] = {}
        self._drivers: dict[str, Driver] = {}  # under way
        self._containers: dict[str, str] = {}  # under way: container -> migration
        self._strays: dict[str, MigratorError] = {}  # that were not picked up, and why
        self._threads: list[threading.Thread] = []

    def start(self, container: str, target: str, options: Options) -> str:
        """Begin; the migration's ID. Raises Busy, and what connecting raises."""
        migration = _name()
        self._start(migration, container, target, options)
        return migration

    def start_group(self, containers: Sequence[str], target: str, options: Options) -> list[str]:
        """Begin to move CONTAINERS together; the IDs of their migrations, in their order.

        Raises Refused, Busy, and what connecting raises.
        """
        if not 2 <= len(containers) <= limits.GROUP or len(set(containers)) < len(containers):
            raise Refused(f"a group has 2 to {limits.GROUP} containers, each once")
        if busy := [name for name in containers if name in self.under_way()]:
            raise Busy(f"container {busy[0]} is being migrated already", remedy="see 'migrator status'")
        name = _name()
        migrations = [f"{name}-{number}" for number in range(1, len(containers) + 1)]
        group = Group(name, migrations, lambda: self._journal.create(name))
        try:
            for migration, container in zip(migrations, containers, strict=True):
                self._start(migration, container, target, options, partial(group.member, migration))
        except BaseException as error:
            group.give_up(error)
            raise
        return migrations

    def _start(self, migration: str, container: str, target: str, options: Options, join: Join | None = None) -> None:
        peer = self._connect(target)
        try:
            here = self._here(peer.address)
            task = Task(migration, container, options, here.host, here.agent)
            self._begin(task, peer, lambda driver: driver.run(), lambda: self._journal.create(migration), join)
        except MigratorError:
            peer.close()
            raise

    def check(self, container: str, target: str, options: Options) -> dict[str, Any]:
        """What a migration would find, as JSON (`Survey`); nothing is touched."""
        peer = self._connect(target)
        try:
            return survey(container, options, self._ports, peer).to_json()
        finally:
            peer.close()

    def follow(self, migration: str) -> Iterator[Mapping[str, Any]]:
        """What it tells, from its start to its end; raises MigrationUnknown if it does not run in this agent."""
        with self._lock:
            feed = self._feeds.get(migration)
        if feed is None:
            raise MigrationUnknown(
                f"migration {migration} is not under way on this host", remedy="see 'migrator status' for what is known"
            )
        return feed.follow()

    def under_way(self) -> dict[str, str]:
        """Migrations from this host that have not ended, by container."""
        with self._lock:
            return dict(self._containers)

    def newest(self) -> str:
        """The one under way from this host that began last; raises MigrationUnknown."""
        with self._lock:
            if not self._containers:
                raise MigrationUnknown("no migration is under way on this host", remedy="see 'migrator status'")
            return max(self._containers.values())

    def abort(self, migration: str) -> dict[str, Any]:
        """Give a migration of this host up; what it came to, when that has happened. Raises TooLate once it is decided.

        Nothing to do where it went back before, or the container has come back since.
        """
        with self._lock:
            driver, feed = self._drivers.get(migration), self._feeds.get(migration)
        if driver is not None and feed is not None:
            driver.abort()
            for _ in feed.follow():
                pass
        known = self.describe(migration)
        if known["side"] != "source":
            raise Refused(
                f"migration {migration} comes to this host, and is not this host's to abort",
                remedy=f"abort it on {known['peer']}",
            )
        phase = Phase(known["phase"])
        if phase in DECIDED and phase is not Phase.RETURNED:
            raise too_late(phase, migration, known["container"], known["peer"])
        if phase not in ENDED:
            raise self._why_not(phase, known)
        return known

    def _why_not(self, phase: Phase, known: Mapping[str, Any]) -> MigratorError:
        """Why a migration that nobody drives has not gone back."""
        last = known.get("last_event", {})
        if last.get("event") == "error":
            return by_kind(last["kind"], last["error"], remedy=last["remedy"], log=last["log"])
        if (why := self._strays.get(known["migration"])) is not None:
            return not_picked_up(phase, known["migration"], known["container"], why)
        return Refused(f"migration {known['migration']} is just being picked up", remedy="try again in a moment")

    def describe(self, migration: str) -> dict[str, Any]:
        """What is known of a migration, on either side; raises MigrationUnknown."""
        entries = self._journal.read(migration)
        if not entries:
            raise MigrationUnknown(f"no migration {migration} is known here")
        first, last = entries[0], entries[-1]
        if first.get("side") == SIDE:
            members = " and ".join(first["members"])
            raise MigrationUnknown(f"{migration} is a group", remedy=f"ask for one of its migrations: {members}")
        container = first.get("container", "")
        known: dict[str, Any] = {
            "migration": migration,
            "side": first.get("side", ""),
            "container": container["name"] if isinstance(container, dict) else container,
            "peer": first.get("target") or first.get("source_agent"),
            "phase": last["decision"],
            "since": last["time"],
            "started": first["time"],
            **({"group": first["group"]} if "group" in first else {}),
            "active": migration in self._feeds and migration in self._containers.values(),
        }
        for entry in entries:
            known.update({key: entry[key] for key in ("result", "error", "kept_until") if key in entry})
        known["advice"] = advise(known["phase"], migration, known["container"], known["peer"])
        if (why := self._strays.get(migration)) is not None and known["phase"] in [*Phase]:
            stray = not_picked_up(Phase(known["phase"]), migration, known["container"], why)
            known["advice"] = f"{stray.message} ({stray.remedy})"
        with self._lock:
            feed = self._feeds.get(migration)
            driver = self._drivers.get(migration)
        if feed is not None:
            known["last_event"] = dict(feed.last)
        missing = driver.missing_bytes if driver is not None else self._holder.missing_bytes(migration)
        if missing is not None:
            known["missing_bytes"] = missing  # that exist on the source alone, as far as is known
        return known

    def all(self) -> list[dict[str, Any]]:
        """What is known of every migration, oldest first."""
        return [
            self.describe(name) for name in self._journal.migrations() if self._journal.read(name)[0]["side"] != SIDE
        ]

    def outcome_of(self, migration: str) -> Outcome:
        """For a target that asks: what is written, but not before it is known to last."""
        found = self._decisions.outcome_of(migration)
        with self._lock:
            driver = self._drivers.get(migration)
        return Outcome.UNDECIDED if found is Outcome.COMMITTED and driver and not driver.decided else found

    def exports(self) -> list[dict[str, Any]]:
        """Facts of the exports of migrations that have not ended."""
        found = []
        for _, entries in self._decisions.unended():
            found += [export for entry in entries for export in entry.get("exports", [])]
        return found

    def recover(self) -> None:
        """Pick up what an earlier run left, each in a thread of its own: undecided ones go back, decided ones on."""
        for migration, entries in self._decisions.unended():
            try:
                self._recover(migration, entries, *self._decisions.standing(entries))
            except MigratorError as error:
                self._strays[migration] = error
                log.error("cannot pick up a migration", migration=migration, error=error.message)
            except Exception as error:  # a journal that lacks something; the others must not wait for it
                self._strays[migration] = MigratorError(f"{type(error).__name__}: {error}")
                log.exception("cannot pick up a migration", migration=migration)

    def _recover(
        self, migration: str, entries: Sequence[Mapping[str, Any]], phase: Phase, verdict: Verdict | None
    ) -> None:
        if phase is Phase.KEEP:
            self._keeper.keep(migration)
            return
        first = entries[0]
        container = Container.from_json(first["container"])
        identity = Identity.from_json(first["identity"]) if first["identity"] else None
        exports = Exports.adopt(self._ports.disk, first["exports"])
        peer = self._connect(first["target"])
        here = self._here(peer.address)
        task = Task(migration, container.name, Options(**first["options"]), here.host, here.agent)

        def act(driver: Driver) -> dict[str, Any]:
            if phase in DECIDED:
                return driver.go_on(phase, container, identity, exports, kept_until(entries))
            return driver.go_back(container, identity, exports)

        log.info("picking up", migration=migration, container=container.name, phase=phase)
        join = None if verdict is None else partial(_settled, verdict)
        self._begin(task, peer, act, lambda: self._journal.reopen(migration), join)

    def ask_around(self) -> None:
        """Ask the sources of undecided migrations for their decision, until the agent stops."""
        while not self._ports.clock.wait(limits.RETRY_SECONDS[-1]):
            for move in self._holder.moves.undecided():
                try:
                    peer = self._connect(move.source_agent)
                    try:
                        decided = peer.outcome(move.migration)
                    finally:
                        peer.close()
                    if decided is Outcome.COMMITTED:
                        self._holder.commit(move.migration)
                    elif decided is Outcome.ROLLED_BACK:
                        self._holder.abort(move.migration)
                except MigratorError as error:
                    log.info("no decision yet", migration=move.migration, why=error.message)

    def sweep(self) -> None:
        """Clear away what is kept here of containers that have moved on, each when its time has come.

        Until the agent stops; apart from `ask_around`, for a large tree takes its time.
        """
        while not self._ports.clock.wait(limits.SWEEP_SECONDS):
            self._keeper.sweep()

    def join(self, seconds: float) -> None:
        """Once the clock is stopped: wait until those before commit have gone back, and the others have let go."""
        deadline = self._ports.clock.now() + seconds
        for thread in self._threads:
            thread.join(max(deadline - self._ports.clock.now(), 0))

    def _begin(
        self,
        task: Task,
        peer: Peer,
        act: Callable[[Driver], dict[str, Any]],
        journal: Callable[[], Any],
        join: Join | None = None,
    ) -> None:
        feed, chronicle = Feed(), Chronicle(task.migration, task.container)
        with self._lock:
            if (other := self._containers.get(task.container)) is not None:
                raise Busy(
                    f"container {task.container} is being migrated already",
                    remedy=f"see 'migrator status {other}'",
                )
            self._containers[task.container] = task.migration
            self._feeds[task.migration] = feed

        def publish(event: Mapping[str, Any]) -> None:
            feed.publish(event)
            self.tally.publish(event)
            chronicle.publish(event)

        def end(event: Mapping[str, Any]) -> None:
            self._forget(task)
            publish({"migration": task.migration, **event})
            feed.end()

        def run() -> None:
            bind_contextvars(migration=task.migration, container=task.container)  # of whatever is logged below
            last: dict[str, Any] = {}
            try:
                driver = Driver(task, self._ports, peer, journal, publish, join)
                with self._lock:
                    self._drivers[task.migration] = driver
                last = {"event": "result", "result": act(driver)}
                if driver.phase is Phase.KEEP:
                    self._keeper.keep(task.migration)
            except BaseException as error:
                last = {"event": "error", **describe(error)}
                if not isinstance(error, MigratorError):
                    with suppress(Exception):
                        log.exception("unexpected failure", migration=task.migration, container=task.container)
            finally:
                end(last)

        started = {"event": "started", "migration": task.migration, "container": task.container}
        thread = threading.Thread(target=run, name=f"migration-{task.migration}", daemon=True)
        try:
            publish({**started, "target": peer.address})
            thread.start()
        except BaseException as error:
            end({"event": "error", **describe(error)})
            raise
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]

    def _forget(self, task: Task) -> None:
        """It is not under way any more; of those that have ended, the oldest are told of by the journal alone."""
        with self._lock:
            del self._containers[task.container]
            self._drivers.pop(task.migration, None)
            under_way = set(self._containers.values())
            ended = [migration for migration in self._feeds if migration not in under_way]
            for migration in ended[: -limits.REMEMBERED]:
                del self._feeds[migration]


def _name() -> str:
    return time.strftime("%y%m%d-%H%M%S-") + secrets.token_hex(3)


def _settled(verdict: Verdict, withdraw: Callable[[MigratorError], None]) -> Settled:
    return Settled(verdict)
