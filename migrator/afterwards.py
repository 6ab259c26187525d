"""What follows the decision, on the source: one act each, which may be done again until it is done.

It must not know in which order they come, nor what becomes of a failure: that is the driver's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from migrator import telling
from migrator.core import limits
from migrator.core.errors import Lost, MigratorError, PeerUnreachable, Stranded
from migrator.core.identity import Identity
from migrator.core.phases import RELEASED, Hold, Phase
from migrator.core.plan import Container
from migrator.exports import Exports
from migrator.keeping import clear_away
from migrator.ports import Dump, Peer
from migrator.preparation import SourcePorts, Task
from migrator.recorder import Counter, Recorder


@dataclass(frozen=True, slots=True)
class Moved:
    """What has moved, and what is left of it here. DUMP: None if an earlier run of the agent made it."""

    container: Container
    identity: Identity | None
    exports: Exports
    dump: Dump | None


class Afterwards:
    """The acts of one migration. They raise MigratorError, and Stranded where doing it again would change nothing."""

    def __init__(
        self, task: Task, ports: SourcePorts, peer: Peer, recorder: Recorder, check_stopping: Callable[[], None]
    ) -> None:
        """CHECK_STOPPING raises when the agent is to stop."""
        self._task = task
        self._ports = ports
        self._peer = peer
        self._recorder = recorder
        self._check_stopping = check_stopping
        self.seed_bytes = 0  # that the target had, and did not fetch
        self.missing_bytes: int | None = None  # on the target's disk, once it has told

    def open(self) -> None:
        """Let the target's copy run."""
        called = self._recorder.now()
        try:
            report = self._peer.commit(self._task.migration)
        except PeerUnreachable:
            raise
        except MigratorError as error:
            if isinstance(error, Lost) or self._peer.standing(self._task.migration) in (Hold.ABSENT, Hold.DISCARDED):
                raise self._stranded(error) from error
            raise
        timeline, now = self._recorder.timeline, self._recorder.now()
        timeline.opened = now - report.ago
        timeline.answered = None if report.answered is None else now - report.answered
        self._recorder.remote(Phase.COMMIT, called, report)
        self._recorder.tell("opened", downtime_s=timeline.downtime, gap_s=timeline.gap)

    def wait_pages(self, moved: Moved, counter: Counter) -> None:
        """Until all memory is on the target, which alone knows."""
        with self._recorder.step(Phase.COMMIT, "pages") as step:
            try:
                while not self._ask_for_pages(counter, step):
                    self._check_stopping()
            except Lost as error:
                raise self._stranded(error) from error
        if moved.dump is not None:
            moved.dump.stop()
        self._ports.runtime.settle(self._task.migration)

    def _ask_for_pages(self, *counters: Counter) -> bool:
        """Whether all are there; tells how far they are."""
        progress = self._peer.pages(self._task.migration)
        for counter in counters:
            counter.bytes = progress.bytes_present
        telling.progress(self._recorder, Phase.COMMIT, progress)
        return progress.complete

    def _stranded(self, error: MigratorError) -> Stranded:
        """The target has no copy to open. Why the source does not resume by itself is told in core.phases."""
        name, migration = self._task.container, self._task.migration
        return Stranded(
            f"container {name} was committed to the target, which does not have it any more: {error.message}; "
            "the source's copy is intact, paused, and cut from the network",
            remedy=f"make sure that {name} does not run on the target, remove the journal of migration {migration} on "
            f"both hosts, then resume it here with the runtime's 'resume {name}', and raise its port",
            log=error.log,
        )

    def destroy(self, moved: Moved) -> None:
        """The source's copy, which stood frozen and cut until now, and its network."""
        with self._recorder.step(Phase.COMMIT, "destroy the source's copy"):
            self._ports.runtime.destroy(moved.container.name, moved.container.bundle)
            if moved.identity is not None and not moved.identity.is_bare:  # else it is not ours
                self._ports.network.remove(moved.identity)

    def hydrate(self, moved: Moved, counter: Counter) -> None:
        """Until the target needs no byte of this host any more."""
        if self._is_back():
            return
        moved.exports.watch()  # they may have died with an earlier run of the agent
        for progress in self._peer.hydrate(self._task.migration):
            self._check_stopping()
            counter.bytes = progress.fetched_bytes
            self.missing_bytes = progress.bytes_total - progress.bytes_present
            self.seed_bytes = progress.seed_bytes
            self._recorder.tell("progress", phase=Phase.HYDRATE, **progress.to_json())

    def _is_back(self) -> bool:
        """Whether the container has come back, with all of its disk: then nobody needs this host's export any more."""
        return self._ports.places.arrival(self._task.migration) in RELEASED

    def release(self, moved: Moved) -> None:
        """Wait until the exports have ended, as the target told them to; end them if they do not."""
        with self._recorder.step(Phase.DETACH, "release"):
            if not moved.exports.wait_released(limits.RELEASE_SECONDS):
                moved.exports.stop()

    def clear_away(self, moved: Moved) -> None:
        """Remove what the container's options say that is not to stay."""
        with self._recorder.step(Phase.DETACH, "clear away"):
            clear_away(self._ports, moved.container, self._task.options)

    def let_go(self, moved: Moved) -> None:
        """The target verifies, and releases the export; nothing to do if it had, before a restart or a lost answer."""
        migration = self._task.migration
        if self._is_back():
            moved.exports.stop()
            return
        hold = self._peer.standing(migration)
        if hold is Hold.LEFT:  # it has moved on, and there was nobody to release the export
            moved.exports.stop()
        if hold in RELEASED:
            return
        if self._task.options.verify:
            moved.exports.watch()
            with self._recorder.step(Phase.DETACH, "verify"):
                self._peer.verify(migration)
        moved.exports.unwatch()
        self._peer.detach(migration)
