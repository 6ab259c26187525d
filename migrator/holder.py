"""The target's side of a migration: builds the container's place, holds the restored copy, and lets it run on commit.

Everything reaches the world through ports. It must not know runc, CRIU, netlink, gRPC or voyfs; nor who drives. The
states are those of `core.phases`; a copy is let go only by the word "commit", and then never taken back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePosixPath
from typing import Any

import structlog

from migrator import mounting
from migrator.core import bundle, limits
from migrator.core.errors import Lost, MigrationUnknown, MigratorError, Refused, Taken
from migrator.core.hook import Stage
from migrator.core.host import Needs
from migrator.core.identity import Identity
from migrator.core.phases import HOME, OPENED, Hold, Word, target_step
from migrator.core.plan import ImagePiece, Order, Progress, is_name
from migrator.core.preflight import TargetFacts
from migrator.moves import MAKING, UNDER_WAY, Move, Moves
from migrator.places import arrival, is_being_handed_over, kept_tree, place_for, seeds_for
from migrator.ports import (
    Clock,
    Disk,
    Hooks,
    Inspector,
    Journal,
    Network,
    Report,
    Runtime,
)
from migrator.recorder import Steps

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TargetPorts:
    """What a holder acts through."""

    runtime: Runtime
    network: Network
    disk: Disk
    clock: Clock
    journal: Journal
    inspector: Inspector
    hooks: Hooks


class Holder:
    """All migrations towards this host. Methods are called by the peer's server, from any thread.

    It also takes down what is left here of a container that has moved on (ports.Places).
    """

    def __init__(self, ports: TargetPorts, state: PurePosixPath) -> None:
        """STATE: the agent's directory; containers live below it."""
        self._ports = ports
        self._containers = state / "containers"
        self.moves = Moves(ports.journal)

    def probe(self, container: str, identity: Identity | None, needs: Needs) -> TargetFacts:
        """What is here, and what is in the way of a container that NEEDS something of its host."""
        if not is_name(container):
            raise Refused(f"'{container}' is no name of a container")
        ports, directory = self._ports, self._place_for(container)
        namespace, port, bridge = (False, False, True) if identity is None else ports.network.conflicts(identity)
        host = ports.runtime.facts("target", ports.disk.problem())
        return TargetFacts(
            container_taken=self._has(container),
            directory=directory,
            directory_taken=ports.disk.taken(directory),
            namespace_taken=namespace,
            port_taken=port,
            bridge_present=bridge,
            addresses_taken=() if identity is None else ports.network.addresses_taken(identity),
            disk_free=ports.disk.free_bytes(directory),
            inodes_free=ports.inspector.inodes_free(directory),
            cpu_problem=ports.inspector.cpu_problem(needs.cpu),
            missing=ports.inspector.missing(needs.paths),
            host=replace(host, traits=ports.inspector.traits()),  # last: it tells the time
        )

    def prepare(self, order: Order) -> Report:
        """Build network, mount and bundle, fetch what restoring will need. On failure nothing of it stays."""
        ports, steps = self._ports, Steps(self._ports.clock)
        if not (is_name(order.container) and is_name(order.migration)):
            raise Refused(f"'{order.container}' or '{order.migration}' is no name")
        directory = self._place_for(order.container)
        # Also checked by the source; but what is here already must never be taken for ours, and discarded.
        if self._has(order.container) or ports.disk.taken(directory):
            raise Taken(f"the target already has a container called {order.container}, or its {directory}")
        move = Move(order.migration, order.container, directory, order.source_agent)
        self.moves.begin(move)
        try:
            move.record = ports.journal.create(order.migration)
            move.enter(
                Word.PREPARE,
                side="target",
                container=order.container,
                directory=move.directory,
                source_agent=order.source_agent,
            )
            self._build(move, order, steps)
        except BaseException:
            self._discard(move)
            raise
        finally:
            move.lock.release()
        return steps.report()

    def _has(self, container: str) -> bool:
        return self._ports.runtime.exists(container) or is_being_handed_over(container, self._ports.journal)

    def _place_for(self, container: str) -> str:
        return place_for(container, self._containers, self._ports.disk, self._ports.journal)

    def _build(self, move: Move, order: Order, steps: Steps) -> None:
        ports, directory = self._ports, PurePosixPath(move.directory)
        assert move.record is not None
        if order.identity is not None:
            namespace, port, _ = ports.network.conflicts(order.identity)
            if namespace or port:
                raise Taken(f"the target already has {order.identity.namespace} or {order.identity.port}")
            move.record.write(move.hold, network=order.identity.to_json())  # an agent that comes after us removes it
            with steps.step("network"):
                move.link = ports.network.build(order.identity)
            move.identity = order.identity  # ours from now on, to be removed with the rest
        ports.disk.claim(move.directory)
        move.claimed = True
        with steps.step("mount"):
            if order.volumes:
                move.record.write(move.hold, volumes=[volume.to_json() for volume in order.volumes])
            found = seeds_for(move.container, self._containers, ports.journal)
            move.mounted = mounting.mount(ports.disk, order, move.directory, found)
        with steps.step("bundle"):
            places = {place: directory / "files" / str(number) for number, place in enumerate(sorted(order.files))}
            places |= mounting.places(move.directory, order.volumes)
            config = bundle.for_target(order.config, directory / "root", places)
            move.restore = ports.runtime.prepare_restore(order, move.directory, config)
        with steps.step("prefetch"):
            move.mounted.prefetch(order.fetch)
            move.mounted.look_up(order.look_up)
            fetched = frozenset(order.fetch)
            move.ends = [path for path in order.look_up if path not in fetched][: limits.ENDS]
        if order.warm:
            with steps.step("warm"):
                move.mounted.warm(limits.WARM_SECONDS)
        move.network = order.network
        move.record.write(move.hold, network_mode=order.network)
        self._ports.hooks.run(Stage.BEFORE_FREEZE, _facts(move))

    def how_far(self, migration: str) -> Progress | None:
        """How far the disk of one is that is being prepared; None where that is not known. It waits for no word."""
        move = self.moves.remembered(migration)
        if move is None or move.hold is not Hold.PREPARED or move.mounted is None:
            return None
        try:
            return move.mounted.prefetched
        except MigratorError:
            return None

    def freeze(self, migration: str, live: Sequence[str]) -> Report:
        """The source is frozen and cut: correct the disk, hold the frames. LIVE: see Mounted.refresh."""
        steps = Steps(self._ports.clock)
        with self.moves.at(migration, Hold.PREPARED) as move:
            if move.link is not None:
                with steps.step("attract"):
                    move.link.attract()
            assert move.mounted is not None
            with steps.step("refresh"):
                move.mounted.refresh(live)
            with steps.step("ends of files"):  # where a program goes on writing: its first write needs what is there
                move.mounted.fetch_ends(move.ends)
        return steps.report()

    def receive(self, migration: str, pieces: Iterator[ImagePiece]) -> Report:
        """Store images. It runs beside `freeze`, so it takes no lock: it touches the images alone."""
        steps = Steps(self._ports.clock)
        move = self.moves.find(migration)
        if move.hold is not Hold.PREPARED or move.restore is None:
            raise Refused(f"migration {migration} is '{move.hold}' here, and takes no images")
        with steps.step("receive"):
            count = sum(move.restore.accept(piece) for piece in pieces)
        return steps.report(count=count)

    def restore(self, migration: str, touched: Mapping[str, int], pages: str = "") -> Report:
        """Restore and hold; directories that dumping and restoring wrote in get their TOUCHED times back.

        PAGES: where memory is fetched from afterwards, if it is not in the images.
        """
        steps = Steps(self._ports.clock)
        with self.moves.at(migration, Hold.PREPARED) as move:
            assert move.restore is not None
            move.enter(Word.RESTORE, durable=False)  # as PREPARED, it is discarded by an agent that comes after us
            assert move.mounted is not None
            with steps.step("restore"):
                move.restore.restore(pages)
            with steps.step("times"):
                move.mounted.set_times(touched)
            with steps.step("hook"):
                self._ports.hooks.run(Stage.AFTER_RESTORE, _facts(move))
            move.enter(Word.RESTORED)
        return steps.report()

    def _run_hook(self, stage: Stage, move: Move) -> None:
        """Where nothing depends on its success any more."""
        try:
            self._ports.hooks.run(stage, _facts(move))
        except MigratorError as error:
            log.error("a hook failed", migration=move.migration, error=error.message)

    def commit(self, migration: str) -> Report:
        """Open the network and let the copy run."""
        steps = Steps(self._ports.clock)
        with self.moves.at(migration, Hold.HELD, *OPENED) as move:
            if move.hold is not Hold.HELD:
                return steps.report()
            if move.lost:
                raise Lost(
                    f"the restored copy of container {move.container} is gone from the target",
                    remedy=f"its disk is still there, in {move.directory}",
                )
            assert move.restore is not None
            move.restore.pages_complete(0)  # a copy that has lost its pages before it ran was not opened
            if move.link is not None:
                with steps.step("open"):
                    move.link.open()
            with steps.step("release"):
                move.restore.release()
            opened = self._ports.clock.now()
            move.enter(Word.COMMIT)
            move.restore.forget_images()
            answered = None
            if move.link is not None:
                if (ago := move.link.answered(limits.ANSWER_SECONDS)) is not None:
                    answered = self._ports.clock.now() - ago
                move.link.close()
            self._run_hook(Stage.AFTER_COMMIT, move)
        return steps.report(since=opened, answered=answered)

    def pages(self, migration: str) -> Progress:
        """How far memory is; waits a little for all. Raises Lost if it never will be here: then the copy was killed."""
        with self.moves.at(migration, *OPENED) as move:
            if move.hold is Hold.LEFT:
                return Progress.of_memory(0, 0, 0.0, complete=True)
            assert move.restore is not None
            complete = move.restore.pages_complete(limits.PAGES_SECONDS)
            progress = move.restore.pages_progress(complete=complete)
            if complete:
                move.restore.forget_images()
                return progress  # and if the container has ended since, or moved on: that is its own affair
            if not self._ports.runtime.exists(move.container):
                raise Lost(
                    f"container {move.container} is gone from the target", remedy=f"its disk is in {move.directory}"
                )
            return progress

    def abort(self, migration: str) -> None:
        """Remove everything of the migration; refused from OPEN on."""
        move = self.moves.shut(migration)
        if move is None:  # it overtook "prepare", which must then find the door closed
            return
        if move.hold is Hold.RESTORING and move.restore is not None:
            move.restore.interrupt()  # it may wait for a source that is gone
        if not move.lock.acquire(timeout=limits.ABORT_FIRST_SECONDS):
            if move.hold in MAKING and move.mounted is not None:
                move.mounted.discard()  # whatever waits in it waits no more
            move.lock.acquire()
        try:
            target_step(move.hold, Word.ABORT)
            self._discard(move)
        finally:
            move.lock.release()

    def hydrate(self, migration: str) -> Iterator[Progress]:
        """Make the disk local; ends at once where the container has moved on, and needs it no more."""
        move = self.moves.find(migration)
        if move.hold not in OPENED:
            raise Refused(f"migration {migration} is '{move.hold}' here, and cannot hydrate")
        if move.hold is not Hold.OPEN:
            return
        assert move.mounted is not None
        try:
            yield from move.mounted.hydrate()
        except MigratorError:
            if not move.leaving:
                raise

    def verify(self, migration: str) -> None:
        """Compare digests of the whole tree with the source; not what the container has left."""
        with self.moves.at(migration, *OPENED) as move:
            if move.hold is not Hold.OPEN:
                return
            assert move.mounted is not None
            try:
                if not move.mounted.detached:  # else the answer, or the journal's line, was lost
                    move.mounted.verify()
            except MigratorError:
                if not move.leaving:
                    raise

    def detach(self, migration: str) -> None:
        """Release the source for good."""
        with self.moves.at(migration, *OPENED) as move:
            if move.hold is Hold.OPEN:
                assert move.mounted is not None
                move.mounted.detach()
                move.enter(Word.DETACH)

    def leave(self, directory: str, *, keep: bool) -> None:
        """See ports.Places. Its source, if it still waits for this disk, hears that it is needed no more."""
        for migration in self._ports.journal.migrations():
            history = self._ports.journal.read(migration)
            first, last = history[0], history[-1]["decision"]
            if first.get("side") == "target" and first["directory"] == directory and last in HOME:
                self._leave(self._at_home(migration, history), keep=keep)

    def arrival(self, migration: str) -> Hold:
        """See ports.Places."""
        return arrival(migration, self._ports.journal)

    def _leave(self, move: Move, *, keep: bool) -> None:
        move.leaving = True
        if not move.lock.acquire(timeout=limits.ABORT_FIRST_SECONDS):
            assert move.mounted is not None
            move.mounted.discard()  # whatever waits in it waits no more
            move.lock.acquire()
        try:
            assert move.mounted is not None
            complete = move.hold is Hold.DETACHED
            move.mounted.discard()
            if keep and complete:
                self._ports.disk.keep(f"{move.directory}/store", kept_tree(move.container, self._containers))
            self._ports.disk.remove(move.directory)
            move.enter(Word.LEAVE)
        finally:
            move.lock.release()

    def _at_home(self, migration: str, history: Sequence[Mapping[str, Any]]) -> Move:
        """One whose container lives here, though only the journal may remember how it came."""
        if (remembered := self.moves.remembered(migration)) is not None:
            return remembered
        first = history[0]
        move = Move(migration, first["container"], first["directory"], first["source_agent"])
        move.hold = Hold(history[-1]["decision"])
        move.record = self._ports.journal.reopen(migration)
        move.mounted = mounting.adopt(self._ports.disk, move.directory, _volumes(history))
        return move

    def missing_bytes(self, migration: str) -> int | None:
        """How much of a running container's disk exists on its source alone; None where that is not known."""
        move = self.moves.remembered(migration)
        if move is None or move.hold is not Hold.OPEN or move.mounted is None:
            return None
        try:
            return move.mounted.missing_bytes
        except MigratorError:
            return None

    def standing(self, migration: str) -> Hold:
        """Where the migration stands."""
        try:
            return self.moves.find(migration).hold
        except MigrationUnknown:
            return Hold.ABSENT

    def recover(self) -> None:
        """Pick up what an earlier run of the agent left: held and running copies stay, anything less is discarded."""
        for migration in self._ports.journal.migrations():
            history = self._ports.journal.read(migration)
            if history[0].get("side") == "target":
                try:
                    self._recover(migration, history)
                except MigratorError as error:
                    log.error("cannot pick up a migration", migration=migration, error=error.message)
                except Exception:  # a journal that lacks something; the others must not wait for it
                    log.exception("cannot pick up a migration", migration=migration)

    def _recover(self, migration: str, history: Sequence[Mapping[str, Any]]) -> None:
        ports, first = self._ports, history[0]
        move = Move(migration, first["container"], first["directory"], first["source_agent"])
        move.record = ports.journal.reopen(migration)
        move.hold = Hold(history[-1]["decision"])
        for entry in history:
            move.network = entry.get("network_mode", move.network)
            if "network" in entry:
                move.identity = Identity.from_json(entry["network"])
        self.moves.add(move)
        if move.hold in (Hold.DISCARDED, Hold.LEFT):
            return
        with move.lock:
            move.claimed = True
            move.mounted = mounting.adopt(ports.disk, move.directory, _volumes(history))
            move.restore = ports.runtime.adopt_restore(migration, move.container, move.directory)
            if move.hold is Hold.HELD and not ports.runtime.exists(move.container):
                move.lost = True  # only the source knows whether what it left is still worth something
            elif move.hold is Hold.HELD:
                move.link = ports.network.target(move.identity) if move.identity else None
            elif move.hold in UNDER_WAY:
                self._discard(move)
            else:
                move.restore.forget_images()
                if move.hold is Hold.OPEN and move.mounted.detached:
                    move.enter(Word.DETACH)

    def _discard(self, move: Move) -> None:
        """Remove all of a migration; every part is tried.

        The disk goes before the tasks: they never run again, and one that waits for it does not end before. The
        directory goes last, once nothing is mounted or running there.
        """
        acts: list[Callable[[], None]] = []
        if move.restore is not None:
            acts.append(move.restore.interrupt)
        if move.mounted is not None:
            acts.append(move.mounted.discard)
        if move.restore is not None:
            acts.append(move.restore.discard)
        if move.link is not None:
            acts.append(move.link.close)
        if move.identity is not None:
            acts.append(partial(self._ports.network.remove, move.identity))
        problems: list[MigratorError] = []
        for act in acts:
            try:
                act()
            except MigratorError as error:
                problems.append(error)
        if not problems and move.claimed:
            self._ports.disk.remove(move.directory)
        if problems:
            raise problems[0]
        if move.hold is not Hold.DISCARDED:  # "abort" may come again
            self._run_hook(Stage.ON_ABORT, move)
        if move.record is not None and move.hold is not Hold.ABSENT:  # else nothing was written that this would end
            move.enter(Word.ABORT)
        move.hold = Hold.DISCARDED


def _facts(move: Move) -> dict[str, Any]:
    """For hooks."""
    return {
        "side": "target",
        "migration": move.migration,
        "container": move.container,
        "peer": move.source_agent,
        "bundle": move.directory,
        "network": move.network,
        "identity": move.identity.to_json() if move.identity else None,
    }


def _volumes(history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return next((entry["volumes"] for entry in history if "volumes" in entry), [])
