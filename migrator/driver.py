"""Drives one migration on the source, from the first check to the released disk.

Everything reaches the world through ports. It must not know runc, CRIU, netlink, gRPC or voyfs; nor the target's
side of things, which is `holder`. The order of effects and the states are those of `core.phases`: the state changes
first (durably, where it decides something), the effect follows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NoReturn

from migrator import telling
from migrator.afterwards import Afterwards, Moved
from migrator.core import limits, memory, preflight
from migrator.core.advice import too_late
from migrator.core.errors import (
    Aborted,
    Differs,
    MigratorError,
    PeerUnreachable,
    Stranded,
    Unfinished,
    describe,
)
from migrator.core.group import Stop
from migrator.core.hook import Mode, Stage
from migrator.core.identity import Identity
from migrator.core.memory import Memory
from migrator.core.phases import DECIDED, Phase, Step
from migrator.core.plan import Container, ImagePiece
from migrator.core.prediction import Prediction, outcome
from migrator.exports import Exports
from migrator.group import Alone, Company
from migrator.keeping import last_step
from migrator.ports import Dump, Peer, Publish, Record, Report, SourceLink
from migrator.preparation import SourcePorts, Task, order_for, survey
from migrator.recorder import Counter, Recorder

Join = Callable[[Callable[[MigratorError], None]], Company]


class Driver:
    """One migration. `run` once, in a thread of its own; or `go_on` with what the journal of an earlier run says."""

    def __init__(
        self,
        task: Task,
        ports: SourcePorts,
        peer: Peer,
        journal: Callable[[], Record],
        publish: Publish,
        join: Join | None = None,
    ) -> None:
        """Nothing happens yet. JOURNAL opens the migration's journal, once there is something to write.

        JOIN, given what makes this one stop, gives those that decide with it.
        """
        self.task = task
        self.phase = Phase.PREPARE
        self._ports = ports
        self._peer = peer
        self._journal = journal
        self._record: Record | None = None  # None: the target was not told anything yet
        self._recorder = Recorder(task.migration, ports.clock, publish)
        self._afterwards = Afterwards(task, ports, peer, self._recorder, self._check_stopping)
        self._pool = ThreadPoolExecutor(2, thread_name_prefix=f"migration-{task.migration}")
        self._container: Container | None = None
        self._identity: Identity | None = None
        self._exports: Exports | None = None
        self._link: SourceLink | None = None
        self._dump: Dump | None = None
        self._image_bytes = 0
        self._memory = Memory(task.options.memory)
        self._given_up: MigratorError | None = None
        self._company = Alone() if join is None else join(self.withdraw)
        self._prediction: Prediction | None = None  # also after a restart, which forgets it
        self._kept_until = 0.0  # end of the failback window, in seconds since the epoch; 0: there is none

    def run(self) -> dict[str, Any]:
        """Migrate; the result as JSON. On an error before commit the source runs again when it is raised."""
        try:
            try:
                with self._recorder.phase(Phase.PREPARE):
                    self._prepare()
                with self._recorder.phase(Phase.FREEZE):
                    self._freeze()
                with self._recorder.phase(Phase.DUMP) as counter:
                    self._transfer(counter)
                with self._recorder.phase(Phase.RESTORE):
                    self._call(Phase.RESTORE, self._restore)
                    self._check_stopping()
                    self._decide()
            except BaseException as error:
                reason = self._reason(error)
                self._company.give_up(reason)
                with self._recorder.phase(Phase.ROLLBACK):
                    self._roll_back(reason)
                raise reason from error
            return self._finish()
        finally:
            self._close()

    def go_on(
        self,
        phase: Phase,
        container: Container,
        identity: Identity | None,
        exports: Exports,
        kept_until: float = 0.0,
    ) -> dict[str, Any]:
        """Go on after a restart of the agent, from COMMIT or later."""
        self.phase, self._container, self._identity, self._exports = phase, container, identity, exports
        # A group's decision may be all that was written, and it tells of no window.
        self._kept_until = kept_until or (self._window_end() if phase is Phase.COMMIT else 0.0)
        self._record = self._journal()
        try:
            if phase is not Phase.COMMIT:  # until then the target may still fetch pages
                self._ports.runtime.settle(self.task.migration)
            return self._finish()
        finally:
            self._close()

    def go_back(self, container: Container, identity: Identity | None, exports: Exports) -> NoReturn:
        """Roll back after a restart of the agent, from before COMMIT; then raises what it was rolled back for."""
        self.phase, self._container, self._identity, self._exports = Phase.DUMP, container, identity, exports
        self._record = self._journal()
        try:
            self._ports.runtime.settle(self.task.migration)
            if identity is not None and not identity.is_bare:
                self._link = self._ports.network.source(identity)
            error = MigratorError("the agent was restarted before the commit", remedy="start the migration anew")
            with self._recorder.phase(Phase.ROLLBACK):
                self._roll_back(error)
            raise error
        finally:
            self._close()

    def _advance(self, step: Step, *, durable: bool, **facts: Any) -> None:
        """Enter the next state; it is journaled before it counts. DURABLE where the step decides something."""
        phase = self._company.step(self.phase, step)
        if self._record is not None:
            self._record.write(phase, durable=durable, **facts)
        self.phase = phase

    def abort(self) -> None:
        """Give it up, from another thread: `run` goes back then, at once. Raises TooLate if it is decided."""
        error = Aborted(f"the migration of container {self.task.container} was aborted")
        with self._company.deciding:  # giving up and deciding: whichever comes first
            if self.decided:
                phase = self.phase if self.phase in DECIDED else Phase.COMMIT
                raise too_late(phase, self.task.migration, self.task.container, self._peer.address)
            if self.phase in (Phase.ROLLBACK, Phase.ROLLED_BACK):
                return
            self._company.give_up(error)
            self._given_up = error
        self._peer.cancel()

    @property
    def missing_bytes(self) -> int | None:
        """On the target's disk, once it has told."""
        return self._afterwards.missing_bytes

    @property
    def decided(self) -> bool:
        """Whether it is, durably, for the target."""
        return self.phase in DECIDED or self._company.committed

    def withdraw(self, error: MigratorError) -> None:
        """As `abort`, for ERROR: others have given up what they decide with this one."""
        if self.phase not in (Phase.ROLLBACK, Phase.ROLLED_BACK):
            self._given_up = error
            self._peer.cancel()

    def _check_stopping(self) -> None:
        if self._ports.clock.wait(0):
            raise MigratorError("the agent is being stopped", remedy="start it again")
        if self._given_up is not None:
            raise self._given_up

    def _reason(self, error: BaseException) -> BaseException:
        """Why it goes back: what was under way when it was given up failed for that alone."""
        if self._given_up is not None and isinstance(error, MigratorError):
            return self._given_up
        return error

    # Before the freeze: whatever takes time is done here.

    def _prepare(self) -> None:
        task, ports, step = self.task, self._ports, self._recorder.step
        with step(Phase.PREPARE, "preflight"):
            found = survey(task.container, task.options, ports, self._peer)
            preflight.raise_first(found.rows)
        subject, self._prediction = found.subject, found.prediction
        mode = self._memory = found.memory
        container, identity = self._container, self._identity = subject.container, subject.identity
        with step(Phase.PREPARE, "export"):
            self._exports = Exports.start(ports.disk, subject.trees, task.listen_host)
            self._exports.watch()
        if identity is not None and not identity.is_bare:
            self._link = ports.network.source(identity)
        with step(Phase.PREPARE, "working set"):
            order = order_for(task, ports, subject, self._exports.addresses, mode)
        self._check_stopping()
        facts = self._company.facts
        self._record = self._journal()
        self._record.write(
            Phase.PREPARE,
            side="source",
            container=container.to_json(),
            identity=identity.to_json() if identity else None,
            exports=self._exports.facts,
            target=self._peer.address,
            options=replace(task.options, memory=mode).to_json(),
            **facts,
        )
        called = self._recorder.now()
        with telling.preparation(self._recorder, self._peer, task.migration):
            report = self._peer.prepare(order)
        self._recorder.remote(Phase.PREPARE, called, report)
        serve_on = task.listen_host if mode is Memory.POST_COPY else ""
        keeps = Mode(task.options.network).keeps_connections
        self._dump = ports.runtime.prepare_dump(container, task.migration, serve_on, connections=keeps)
        if mode is Memory.PRE_COPY:
            self._move_ahead(self._dump)
        self._dump.stand_by()
        self._check_stopping()
        self._company.meet(Stop.PREPARED, self._check_stopping)
        ports.hooks.run(Stage.BEFORE_FREEZE, self._facts())
        self._company.meet(Stop.ABOUT, self._check_stopping)
        self._advance(Step.PREPARED, durable=True)

    def _move_ahead(self, dump: Dump) -> None:
        """Memory in rounds, while the container runs, as long as that pays."""
        rounds: list[tuple[int, float]] = []
        compress = self.task.options.compress
        while memory.another_round(rounds):
            self._check_stopping()
            start = self._recorder.now()
            with self._recorder.step(Phase.PREPARE, f"memory, round {len(rounds) + 1}") as step:
                self._peer.send(self.task.migration, self._told(dump.round(), step, Phase.PREPARE), compress=compress)
            rounds.append((step.bytes, self._recorder.now() - start))

    def _facts(self) -> dict[str, Any]:
        """For hooks."""
        assert self._container is not None
        return {
            "side": "source",
            "migration": self.task.migration,
            "container": self._container.name,
            "peer": self._peer.address,
            "bundle": self._container.bundle,
            "network": self.task.options.network,
            "identity": self._identity.to_json() if self._identity else None,
        }

    def _run_hook(self, stage: Stage) -> None:
        """Where nothing depends on its success any more."""
        try:
            self._ports.hooks.run(stage, self._facts())
        except MigratorError as error:
            self._recorder.tell("note", text=error.message)

    # The freeze: nothing here that could have been done before.

    def _freeze(self) -> None:
        assert self._dump is not None
        self._recorder.timeline.paused = self._recorder.now()
        with self._recorder.step(Phase.FREEZE, "pause"):
            self._dump.pause()
        if self._link is not None:  # after it: what the container has said before must not be lost
            with self._recorder.step(Phase.FREEZE, "cut"):
                self._link.cut()
        self._company.meet(Stop.FROZEN, self._check_stopping)
        self._advance(Step.FROZEN, durable=False)

    def _transfer(self, counter: Counter) -> None:
        """The target corrects its disk while the images are dumped and sent."""
        refreshing = self._pool.submit(self._refresh)
        with self._recorder.step(Phase.DUMP, "dump and send") as step:
            assert self._dump is not None
            compress = self.task.options.compress
            self._peer.send(self.task.migration, self._told(self._dump.pieces(), step, Phase.DUMP), compress=compress)
        counter.bytes = self._image_bytes = step.bytes
        refreshing.result()
        self._advance(Step.DUMPED, durable=False)

    def _refresh(self) -> None:
        assert self._container is not None
        live = self._ports.runtime.live(self._container)  # beside the dump, which takes longer
        self._call(Phase.DUMP, lambda migration: self._peer.freeze(migration, live))

    def _told(self, pieces: Iterator[ImagePiece], counter: Counter, phase: Phase) -> Iterator[ImagePiece]:
        assert self._container is not None
        return telling.images(pieces, counter, self._recorder, phase, preflight.image_bytes(self._container))

    def _restore(self, migration: str) -> Report:
        assert self._dump is not None
        report = self._peer.restore(migration, self._dump.touched(), self._dump.pages)
        self._dump.check()
        return report

    def _call(self, phase: Phase, method: Callable[[str], Report]) -> None:
        called = self._recorder.now()
        self._recorder.remote(phase, called, method(self.task.migration))

    def _decide(self) -> None:
        """The one decision. A write that fails leaves nothing in the journal, so going back is still right."""
        with self._recorder.step(Phase.RESTORE, "journal"):
            self._company.decide(self._check_stopping, self._enter_commit)

    def _enter_commit(self) -> None:
        self._kept_until = self._window_end()
        facts = {"kept_until": self._kept_until} if self._kept_until else {}
        if self._company.committed:  # elsewhere: this line only repeats it
            self._advance_anyway(Step.DECIDED, **facts)
        else:
            self._advance(Step.DECIDED, durable=True, **facts)

    def _window_end(self) -> float:
        window = self.task.options.failback_window
        return self._ports.clock.wall() + window if window else 0.0

    # From here on there is no way back.

    def _hand_over(self, moved: Moved, counter: Counter) -> None:
        """Open the target, then destroy the source's copy, which stays frozen and cut until it is gone.

        In between, memory that is to follow does: only the target knows when all of it has come.
        """
        after = self._afterwards
        self._insist(after.open)
        if moved.dump is None or moved.dump.pages:
            self._insist(lambda: after.wait_pages(moved, counter))
        self._insist(lambda: after.destroy(moved))
        self._run_hook(Stage.AFTER_COMMIT)
        self._insist(lambda: self._advance(Step.OPENED, durable=True))

    def _insist(self, act: Callable[[], object]) -> None:
        """Do what must be done after the decision, again after each failure, until it is done or the agent stops.

        Stranded and Differs end it: trying again would change nothing.
        """
        waits = iter(limits.RETRY_SECONDS)
        while True:
            try:
                act()
                return
            except (Stranded, Differs):
                raise
            except MigratorError as error:
                self._recorder.tell("waiting", why=error.message, remedy=error.remedy)
                if self._ports.clock.wait(next(waits, limits.RETRY_SECONDS[-1])):
                    raise

    def _finish(self) -> dict[str, Any]:
        """From COMMIT, or from wherever an earlier run of the agent had come, to the end."""
        assert self._container is not None
        assert self._exports is not None
        after, moved = self._afterwards, Moved(self._container, self._identity, self._exports, self._dump)
        try:
            if self.phase is Phase.COMMIT:
                with self._recorder.phase(Phase.COMMIT) as counter:
                    self._hand_over(moved, counter)
            if self.phase is Phase.HYDRATE:
                with self._recorder.phase(Phase.HYDRATE) as counter:
                    self._insist(lambda: after.hydrate(moved, counter))
                    self._insist(lambda: self._advance(Step.HYDRATED, durable=True))
            with self._recorder.phase(Phase.DETACH):
                self._insist(lambda: after.let_go(moved))
                self._insist(lambda: after.release(moved))
                step = last_step(self._ports, self.task.migration, self._kept_until)
                if step is not Step.KEPT:
                    self._insist(lambda: after.clear_away(moved))
            result = self.result(step)
            self._insist(lambda: self._advance(step, durable=True, result=result))
            return result
        except Stranded:
            raise
        except MigratorError as error:
            raise Unfinished(
                f"container {self.task.container} has moved to the target, but not all of it is done: {error.message}",
                remedy=error.remedy or "restart the source's agent to try again; until then leave the source as it is",
                log=error.log,
            ) from error

    # Going back.

    def _roll_back(self, error: BaseException) -> None:
        """The source runs again; the target is cleaned. Raises Stranded if the source cannot resume."""
        from_phase = self.phase
        self._recorder.tell("failed", phase=from_phase, **describe(error))
        self._advance_anyway(Step.GIVE_UP, error=describe(error))
        aborting = self._submit_abort() if self._record is not None else None
        if aborting is not None and from_phase is Phase.RESTORE:
            try:
                aborting.exception(limits.ABORT_FIRST_SECONDS)
            except TimeoutError:
                pass
        try:
            if from_phase is not Phase.PREPARE:
                self._resume()
            else:
                if self._dump is not None:  # a round of its memory may be under way
                    self._dump.stop()
                self._company.meet(Stop.THAWING, self._check_stopping)
        finally:
            if self._dump is not None:
                self._dump.discard()
            if self._exports is not None:
                self._exports.stop()
            if aborting is not None:
                aborting.result()
        if self._record is not None:
            self._run_hook(Stage.ON_ABORT)
        # A target that was not told asks, and is answered from the journal: it must be there, once there is space.
        self._insist(lambda: self._advance(Step.RESUMED, durable=True, error=describe(error)))

    def _advance_anyway(self, step: Step, **facts: Any) -> None:
        """As `_advance`, but a full disk is not in the way of what whoever reads the journal would do as well."""
        try:
            self._advance(step, durable=True, **facts)
        except MigratorError as error:
            self.phase = self._company.step(self.phase, step)
            self._recorder.tell("note", text=error.message)

    def _submit_abort(self) -> Future[None] | None:
        """Whatever is in the way of telling the target is not in the way of the source."""
        try:
            return self._pool.submit(self._abort)
        except RuntimeError as error:  # no thread can be had
            self._recorder.tell("note", text=f"the target could not be told ({error}); it will ask, and clean up then")
            return None

    def _abort(self) -> None:
        try:
            self._peer.abort(self.task.migration)
        except PeerUnreachable:
            self._recorder.tell("note", text="the target could not be told; it will ask, and clean up then")
        except MigratorError as error:
            self._recorder.tell("note", text=f"cleaning up the target: {error.message}")

    def _resume(self) -> None:
        assert self._container is not None
        name = self._container.name
        try:
            if self._dump is not None:
                self._dump.stop()
            self._company.meet(Stop.THAWING, self._check_stopping)
            if self._link is not None:
                self._link.mend()
            self._ports.runtime.resume(self._container)
        except MigratorError as error:
            raise Stranded(
                f"container {name} could not be resumed: {error.message}",
                remedy=f"resume it with the runtime's 'resume {name}', and raise its port",
                log=error.log,
            ) from error

    def _close(self) -> None:
        if self._exports is not None:
            self._exports.unwatch()
        if self._dump is not None:
            self._dump.discard()
        if self._link is not None:
            self._link.close()
        self._peer.close()
        self._pool.shutdown(wait=False)

    def result(self, step: Step) -> dict[str, Any]:
        """What came of it, as JSON; STEP is the last."""
        timeline = self._recorder.timeline.to_json()
        return {
            "migration": self.task.migration,
            "container": self.task.container,
            "target": self._peer.address,
            "outcome": "returned" if step is Step.CAME_BACK else "moved",
            "kept_until": (self._kept_until or None) if step is Step.KEPT else None,
            "memory": self._memory,
            "image_bytes": self._image_bytes,
            "seed_bytes": self._afterwards.seed_bytes,
            "prediction": outcome(self._prediction.to_json(), timeline) if self._prediction else None,
            "timeline": timeline,
        }
