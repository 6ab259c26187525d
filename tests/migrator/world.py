"""Two hosts and the link between them in memory, which know what must never happen.

Every effect of every fake port goes through `World.act`: there it is counted, there it can be made to fail (before or
after it took effect), and there the guarantees are checked after each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from migrator.core.errors import (
    ContainerUnknown,
    DiskFailed,
    HookFailed,
    Lost,
    MigrationUnknown,
    MigratorError,
    NetworkFailed,
    PeerUnreachable,
    RuntimeFailed,
)
from migrator.core.hook import Stage
from migrator.core.host import Needs, Traits
from migrator.core.identity import Address, Identity
from migrator.core.phases import Hold, Outcome
from migrator.core.plan import Container, ImagePiece, Options, Order, Progress
from migrator.core.prediction import Link
from migrator.core.preflight import HostFacts, TargetFacts
from migrator.core.volumes import Place, Volume
from migrator.driver import Driver
from migrator.holder import Holder, TargetPorts
from migrator.ports import Report
from migrator.preparation import SourcePorts, Task

IDENTITY = Identity(
    namespace="/run/netns/box",
    name="eth0",
    mac="02:00:00:00:00:01",
    mtu=1500,
    addresses=(Address("10.0.0.2", 24),),
    routes=(),
    port="v-box",
    port_mac="02:00:00:00:00:02",
    bridge="br0",
)
CONFIG: dict[str, Any] = {"root": {"path": "rootfs"}, "process": {"terminal": False}, "linux": {"namespaces": []}}
CONTAINER = Container("box", 42, "/b/box", "/b/box/rootfs", CONFIG, "/sys/fs/cgroup/box/cgroup.freeze", 1 << 20)
IMAGES = {"core-1.img": b"core", "pages-1.img": b"page" * 100, "inventory.img": b"inventory"}
MIGRATION = "m1"
MEMORY = 300  # bytes that follow, where any do


class Crash(BaseException):
    """The agent is gone, in the middle of something."""


@dataclass
class World:
    """What there is. `fail` names the act that fails the first time, and `fail_after` whether it took effect before."""

    fail: str = ""
    fail_after: bool = False
    crash: bool = False  # instead of failing: nothing more happens until `restart`
    dead: bool = False
    acts: list[str] = field(default_factory=list)
    source: str = "running"  # running, paused, gone
    stood_by: bool = False
    source_link: str = "open"  # open, cut, gone
    target: str = "none"  # none, held, running
    target_link: str = "none"  # none, closed, open
    mounted: bool = False
    directory: bool = False
    exported: bool = False
    dump_room: bool = False
    attached: bool = True  # the target's disk still refers to the source
    complete: bool = False
    kept: str = ""
    seeds: list[str] = field(default_factory=list)
    arrival: Hold = Hold.ABSENT  # how far the container has come back by a later migration
    left: list[tuple[str, bool]] = field(default_factory=list)  # what the source was told to leave, and to keep
    journals: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=lambda: {"source": {}, "target": {}})
    volatile: dict[str, list[str]] = field(default_factory=lambda: {"source": [], "target": []})
    received: dict[str, bytes] = field(default_factory=dict)
    memory: str = "stop-copy"
    dirty: tuple[int, ...] = (1000,)  # bytes that a round of pre-copy moves: the first, the second, ... all later ones
    rounds: int = 0
    serving: bool = False  # the source has pages that the target does not have yet
    page_calls: int = 0
    pages_complete: bool = False
    pages_lost: bool = False
    events: list[Mapping[str, Any]] = field(default_factory=list)

    @contextmanager
    def act(self, name: str, error: type[MigratorError], *, whole: bool = False) -> Iterator[None]:
        """One effect. WHOLE: it takes itself back when it fails, as the port's contract says of it."""
        if self.dead:
            raise Crash(name)
        failing = name == self.fail and name not in self.acts
        self.dead = failing and self.crash and not self.fail_after
        self.acts.append(name)
        if failing and (not self.fail_after or (whole and not self.crash)):
            raise Crash(name) if self.crash else error(f"{name} failed")
        yield
        self.check()
        if failing:
            self.dead = self.crash
            raise Crash(name) if self.crash else error(f"{name} failed after it took effect")

    @property
    def committed(self) -> bool:
        """Whether the source's journal has the decision."""
        return any(entry["decision"] == "commit" for entries in self.journals["source"].values() for entry in entries)

    def check(self) -> None:
        """The guarantees, at this instant."""
        assert not (self.source == "running" and self.target == "running"), "two run"
        assert not (self.source_link == "open" and self.target_link == "open"), "two are on the network"
        assert self.target != "running" or self.committed, "the target runs uncommitted"
        assert self.target_link != "open" or self.committed, "the target is on the network uncommitted"
        if self.source == "gone":
            assert self.committed, "the source's copy was destroyed uncommitted"
            assert self.target in ("held", "running"), "the source's copy was destroyed, and there is no other"
        assert self.source != "running" or not self.committed, "the source runs, committed"
        assert self.attached is False or not self.complete or self.target == "running"

    def check_source_has_it(self) -> None:
        """After a rollback: the source answers, and the target has nothing of it."""
        assert (self.source, self.source_link) == ("running", "open")
        assert (self.target, self.target_link, self.mounted, self.directory) == ("none", "none", False, False)
        assert (self.exported, self.dump_room) == (False, False)

    def check_target_has_it(self) -> None:
        """After success."""
        assert (self.source, self.source_link) == ("gone", "gone")
        assert (self.target, self.target_link, self.mounted) == ("running", "open", True)
        assert (self.exported, self.dump_room, self.complete, self.attached) == (False, False, True, False)


@dataclass
class FakeClock:
    """Every look at it takes a millisecond; waiting takes no time."""

    time: float = 0.0
    waits: list[float] = field(default_factory=list)

    def now(self) -> float:
        self.time += 0.001
        return self.time

    def wall(self) -> float:
        return self.time

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return False


@dataclass
class FakeRecord:
    world: World
    side: str
    entries: list[dict[str, Any]]

    def write(self, decision: str, *, durable: bool = True, **facts: Any) -> None:
        with self.world.act(f"{self.side}: journal {decision}", MigratorError, whole=True):
            self.entries.append({"decision": str(decision), **facts})
            if not durable:
                self.world.volatile[self.side].append(str(decision))


@dataclass
class FakeJournal:
    world: World
    side: str

    @property
    def _all(self) -> dict[str, list[dict[str, Any]]]:
        return self.world.journals[self.side]

    def create(self, migration: str) -> FakeRecord:
        return FakeRecord(self.world, self.side, self._all.setdefault(migration, []))

    def reopen(self, migration: str) -> FakeRecord:
        return FakeRecord(self.world, self.side, self._all[migration])

    def read(self, migration: str) -> list[dict[str, Any]]:
        try:
            return [{"time": 0.0, **entry} for entry in self._all[migration]]
        except KeyError:
            raise MigrationUnknown(migration) from None

    def migrations(self) -> list[str]:
        return [migration for migration, entries in self._all.items() if entries]


@dataclass
class FakeDump:
    world: World
    pages: str = ""

    def round(self) -> Iterator[ImagePiece]:
        assert self.world.source == "running", "a round is moved while it runs"
        with self.world.act("source: round", RuntimeFailed):
            self.world.rounds += 1
            number = self.world.rounds
        size = self.world.dirty[min(number, len(self.world.dirty)) - 1]
        yield ImagePiece(f"round-{number}/pages-1.img", 0, bytes(size), last=True)

    def check(self) -> None:
        pass

    def stop(self) -> None:
        if self.pages:
            with self.world.act("source: stop serving", RuntimeFailed):
                assert self.world.pages_complete or not self.world.committed, "its pages went with it"
                self.world.serving = False

    def stand_by(self) -> None:
        with self.world.act("source: stand by", RuntimeFailed):
            assert self.world.source == "running"
            self.world.stood_by = True

    def pause(self) -> None:
        with self.world.act("source: pause", RuntimeFailed, whole=True):
            assert self.world.stood_by
            self.world.source = "paused"

    def pieces(self) -> Iterator[ImagePiece]:
        assert self.world.source == "paused", "dumped while it runs"
        for name, content in IMAGES.items():
            with self.world.act(f"source: dump {name}", RuntimeFailed):
                pass
            yield ImagePiece(name, 0, content, last=True)
        self.world.serving = bool(self.pages)

    def touched(self) -> Mapping[str, int]:
        return {"/tmp": 1}

    def discard(self) -> None:
        self.world.dump_room = False


@dataclass
class FakeRestore:
    world: World

    def accept(self, piece: ImagePiece) -> int:
        with self.world.act(f"target: accept {piece.name}", MigratorError):
            self.world.received[piece.name] = piece.data
        return len(piece.data)

    def restore(self, pages: str = "") -> None:
        with self.world.act("target: restore", RuntimeFailed):
            assert self.world.source == "paused"
            assert self.world.mounted
            assert {name: data for name, data in self.world.received.items() if "/" not in name} == IMAGES
            assert self.world.serving == bool(pages)
            self.world.target = "held"

    def pages_complete(self, seconds: float) -> bool:
        if self.world.pages_lost:
            self.world.target = "none"
            raise Lost("its pages are lost")
        if seconds and self.world.serving:
            self.world.page_calls += 1
        self.world.pages_complete = not self.world.serving or self.world.page_calls > 2
        return self.world.pages_complete

    def pages_progress(self, *, complete: bool) -> Progress:
        total = MEMORY if self.world.page_calls else 0
        present = total if complete else min(self.world.page_calls * 100, total)
        return Progress.of_memory(present, total, 50.0, complete=complete)

    def interrupt(self) -> None:
        pass

    def release(self) -> None:
        with self.world.act("target: release", RuntimeFailed):
            assert self.world.target in ("held", "running")
            self.world.target = "running"

    def forget_images(self) -> None:
        self.world.received = {}

    def discard(self) -> None:
        with self.world.act("target: destroy", RuntimeFailed):
            assert self.world.target != "running", "a running copy was destroyed"
            self.world.target = "none"
            self.world.received = {}


@dataclass
class FakeRuntime:
    world: World
    side: str

    def facts(self, host: str, voyfs_problem: str) -> HostFacts:
        return HostFacts(host, "runc 1", "runc", "4.2", "", voyfs_problem, 1 << 30, pipe_bytes=1 << 30)

    def inspect(self, name: str) -> Container:
        if name != CONTAINER.name:
            raise ContainerUnknown(f"no container {name}")
        return CONTAINER

    def exists(self, name: str) -> bool:
        return self.side == "source" or (name == CONTAINER.name and self.world.target != "none")

    def containers(self) -> list[dict[str, Any]]:
        return []

    def host_files(self, container: Container) -> Mapping[str, bytes]:
        return {}

    def warm(self, container: Container, volumes: Mapping[str, str]) -> tuple[list[str], list[str]]:
        return ["/bin/box"], ["/data"]

    def live(self, container: Container) -> list[str]:
        assert self.world.source == "paused", "more may follow"
        return ["/data/log"]

    def prepare_dump(
        self, container: Container, migration: str, serve_on: str = "", *, connections: bool = True
    ) -> FakeDump:
        with self.world.act("source: prepare dump", RuntimeFailed, whole=True):
            self.world.dump_room = True
        return FakeDump(self.world, f"{serve_on}:7001" if serve_on else "")

    def resume(self, container: Container) -> None:
        with self.world.act("source: resume", RuntimeFailed):
            assert self.world.source in ("paused", "running"), "resumed what is gone"
            assert not self.world.serving, "resumed while CRIU holds its tasks"
            self.world.source = "running"

    def destroy(self, name: str, bundle: str) -> None:
        assert bundle == CONTAINER.bundle
        with self.world.act("source: destroy", RuntimeFailed):
            assert self.world.target == "running", "the source's copy goes last"
            assert self.world.pages_complete or not self.world.serving, "its pages went with it"
            self.world.source = "gone"

    def settle(self, migration: str) -> None:
        assert not (self.world.committed and self.world.serving) or self.world.pages_complete, "its pages went with it"
        self.world.dump_room = self.world.serving = False

    def prepare_restore(self, order: Order, bundle: str, config: Mapping[str, Any]) -> FakeRestore:
        assert config["root"]["path"].startswith(bundle)
        with self.world.act("target: bundle", RuntimeFailed, whole=True):
            assert self.world.directory
        return FakeRestore(self.world)

    def adopt_restore(self, migration: str, container: str, bundle: str) -> FakeRestore:
        return FakeRestore(self.world)


@dataclass
class FakeSourceLink:
    world: World

    def cut(self) -> None:
        with self.world.act("source: cut", NetworkFailed):
            self.world.source_link = "cut"

    def mend(self) -> None:
        with self.world.act("source: mend", NetworkFailed):
            assert self.world.source_link != "gone"
            self.world.source_link = "open"

    def close(self) -> None:
        pass


@dataclass
class FakeTargetLink:
    world: World

    def attract(self) -> None:
        with self.world.act("target: attract", NetworkFailed):
            assert self.world.source_link == "cut"

    def open(self) -> None:
        with self.world.act("target: open", NetworkFailed):
            self.world.target_link = "open"

    def answered(self, seconds: float) -> float | None:
        assert self.world.target == "running", "it cannot have answered before it ran"
        return 0.0

    def close(self) -> None:
        pass


@dataclass
class FakeNetwork:
    world: World
    side: str

    def remove(self, identity: Identity) -> None:
        with self.world.act(f"{self.side}: remove link", NetworkFailed):
            if self.side == "source":
                assert self.world.source == "gone"
                self.world.source_link = "gone"
            else:
                assert self.world.target == "none", "its network goes before it"
                self.world.target_link = "none"

    def examine(self, container: Container) -> Identity | None:
        return IDENTITY

    def source(self, identity: Identity) -> FakeSourceLink:
        return FakeSourceLink(self.world)

    def conflicts(self, identity: Identity) -> tuple[bool, bool, bool]:
        return (False, False, True)

    def addresses_taken(self, identity: Identity) -> tuple[str, ...]:
        return ()

    def build(self, identity: Identity) -> FakeTargetLink:
        with self.world.act("target: build network", NetworkFailed, whole=True):
            self.world.target_link = "closed"
        return FakeTargetLink(self.world)

    def target(self, identity: Identity) -> FakeTargetLink:
        return FakeTargetLink(self.world)


@dataclass
class FakeExport:
    world: World
    address: str = "10.0.0.1:7000"

    @property
    def facts(self) -> dict[str, Any]:
        return {"address": self.address}

    @property
    def alive(self) -> bool:
        return self.world.exported

    def wait_released(self, seconds: float) -> bool:
        return not self.world.exported

    def stop(self) -> None:
        self.world.exported = False


@dataclass
class FakeMounted:
    world: World

    def prefetch(self, paths: Sequence[str]) -> None:
        with self.world.act("target: prefetch", DiskFailed):
            assert self.world.exported

    @property
    def prefetched(self) -> Progress:
        return Progress(10, 40, 1, 4, 10, 5.0, 6.0, False)

    def warm(self, seconds: float) -> None:
        with self.world.act("target: warm", DiskFailed):
            assert self.world.source == "running"

    def look_up(self, paths: Sequence[str]) -> None:
        with self.world.act("target: look up", DiskFailed):
            assert self.world.exported

    def fetch_ends(self, paths: Sequence[str]) -> None:
        assert "target: refresh" in self.world.acts, "what they were before"

    def refresh(self, live: Sequence[str]) -> int:
        assert live == ["/data/log"]
        with self.world.act("target: refresh", DiskFailed):
            assert self.world.source == "paused", "refreshed too early"
        return 3

    def set_times(self, times: Mapping[str, int]) -> None:
        with self.world.act("target: set times", DiskFailed):
            assert self.world.target == "held"

    def hydrate(self) -> Iterator[Progress]:
        with self.world.act("target: hydrate", DiskFailed):
            assert self.world.exported
        yield Progress(1, 2, 1, 2, 1, 1.0, 1.0, False)
        self.world.complete = True
        yield Progress(2, 2, 2, 2, 2, 1.0, 0.0, True)

    @property
    def detached(self) -> bool:
        return not self.world.attached

    @property
    def missing_bytes(self) -> int:
        return 0 if self.world.complete else 1

    def verify(self) -> None:
        with self.world.act("target: verify", DiskFailed):
            assert self.world.complete
            assert self.world.exported
            assert self.world.attached

    def detach(self) -> None:
        with self.world.act("target: detach", DiskFailed):
            assert self.world.complete
            self.world.attached = False
            self.world.exported = False

    def discard(self) -> None:
        with self.world.act("target: unmount", DiskFailed):
            assert self.world.target != "running", "a running copy lost its disk"
            self.world.mounted = False


@dataclass
class FakeDisk:
    world: World
    side: str = "target"

    def problem(self) -> str:
        return ""

    def taken(self, directory: str) -> str:
        return ""

    def free_bytes(self, directory: str) -> int:
        return 1 << 40

    def claim(self, directory: str) -> None:
        with self.world.act("target: claim directory", DiskFailed, whole=True):
            self.world.directory = True

    def remove(self, directory: str) -> None:
        if self.side == "source":
            with self.world.act("source: remove root", DiskFailed):
                assert (directory, self.world.source) == (CONTAINER.root, "gone")
            return
        with self.world.act("target: remove directory", DiskFailed):
            assert not self.world.mounted, "deleted through a mount"
            self.world.directory = False

    def export(self, root: str, listen: str) -> FakeExport:
        with self.world.act("source: export", DiskFailed, whole=True):
            self.world.exported = True
        return FakeExport(self.world)

    def adopt(self, facts: Mapping[str, Any]) -> FakeExport | None:
        return FakeExport(self.world, facts["address"])

    def mount(
        self, address: str, mountpoint: str, store: str, seeds: Sequence[str] = (), found: Sequence[str] = ()
    ) -> FakeMounted:
        self.world.seeds = [*seeds, *found]
        with self.world.act("target: mount", DiskFailed, whole=True):
            assert self.world.exported
            assert self.world.directory
            self.world.mounted = True
        return FakeMounted(self.world)

    def keep(self, store: str, place: str) -> None:
        with self.world.act("target: keep", DiskFailed):
            assert not self.world.mounted, "kept while it is mounted"
            assert self.world.complete
            self.world.kept = place

    def mounted(self, mountpoint: str, store: str) -> FakeMounted:
        assert not self.world.dead
        return FakeMounted(self.world)

    def remount(self, place: Place, mountpoint: str) -> FakeMounted:
        raise NotImplementedError

    def remounted(self, mountpoint: str) -> FakeMounted:
        raise NotImplementedError

    def make_empty(self, path: str, *, directory: bool) -> None:
        raise NotImplementedError


@dataclass
class FakeInspector:
    """Two hosts that are alike, and a container without anything odd."""

    def traits(self) -> Traits:
        return Traits(kernel="6.1", architecture="x86_64", cgroups="v2", features=("mem_dirty_track", "uffd-noncoop"))

    def places(self, sources: Sequence[str]) -> Mapping[str, Place]:
        return {}

    def needs(self, container: Container, volumes: Sequence[Volume]) -> Needs:
        return Needs(disk_bytes=1 << 20, disk_files=3, processes=1)

    def changing(self, container: Container) -> Callable[[], float | None]:
        return lambda: 1e6

    def cpu_problem(self, image: bytes) -> str:
        return ""

    def missing(self, paths: Sequence[str]) -> tuple[str, ...]:
        return ()

    def inodes_free(self, directory: str) -> int:
        return 1000


@dataclass
class FakeHooks:
    world: World
    side: str

    def run(self, stage: Stage, facts: Mapping[str, Any]) -> None:
        assert facts["side"] == self.side
        with self.world.act(f"{self.side}: hook {stage}", HookFailed):
            if stage is Stage.BEFORE_FREEZE:
                assert self.world.source == "running"
            if stage is Stage.AFTER_RESTORE:
                assert (self.world.source, self.world.target) == ("paused", "held")
            if stage is Stage.AFTER_COMMIT:
                assert self.world.target == "running"


@dataclass
class FakePlaces:
    world: World

    def leave(self, directory: str, *, keep: bool) -> None:
        with self.world.act("source: leave", DiskFailed):
            assert (self.world.source, self.world.exported) == ("gone", False)
            self.world.left.append((directory, keep))

    def arrival(self, migration: str) -> Hold:
        return self.world.arrival


@dataclass
class FakePeer:
    """The link: a word may be lost on its way there (it had no effect) or on its way back (it had)."""

    world: World
    holder: Holder
    address: str = "b:7777"

    def probe(self, container: str, identity: Identity | None, needs: Needs) -> TargetFacts:
        with self.world.act("link: probe", PeerUnreachable):
            return self.holder.probe(container, identity, needs)

    def measure(self) -> Link:
        with self.world.act("link: measure", PeerUnreachable):
            return Link(1e8, 0.001)

    def prepare(self, order: Order) -> Report:
        with self.world.act("link: prepare", PeerUnreachable):
            return self.holder.prepare(order)

    def how_far(self, migration: str) -> Progress | None:
        return self.holder.how_far(migration)

    def freeze(self, migration: str, live: Sequence[str]) -> Report:
        with self.world.act("link: freeze", PeerUnreachable):
            return self.holder.freeze(migration, live)

    def send(self, migration: str, pieces: Iterator[ImagePiece], *, compress: bool = False) -> Report:
        with self.world.act("link: send", PeerUnreachable):
            return self.holder.receive(migration, pieces)

    def restore(self, migration: str, touched: Mapping[str, int], pages: str = "") -> Report:
        with self.world.act("link: restore", PeerUnreachable):
            return self.holder.restore(migration, touched, pages)

    def pages(self, migration: str) -> Progress:
        with self.world.act("link: pages", PeerUnreachable):
            return self.holder.pages(migration)

    def commit(self, migration: str) -> Report:
        with self.world.act("link: commit", PeerUnreachable):
            return self.holder.commit(migration)

    def abort(self, migration: str) -> None:
        with self.world.act("link: abort", PeerUnreachable):
            self.holder.abort(migration)

    def hydrate(self, migration: str) -> Iterator[Progress]:
        with self.world.act("link: hydrate", PeerUnreachable):
            yield from self.holder.hydrate(migration)

    def verify(self, migration: str) -> None:
        with self.world.act("link: verify", PeerUnreachable):
            self.holder.verify(migration)

    def detach(self, migration: str) -> None:
        with self.world.act("link: detach", PeerUnreachable):
            self.holder.detach(migration)

    def standing(self, migration: str) -> Hold:
        return self.holder.standing(migration)

    def cancel(self) -> None:
        self.world.acts.append("link: cancel")

    def outcome(self, migration: str) -> Outcome:
        return Outcome.UNDECIDED

    def give_back(self, migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        raise NotImplementedError

    def close(self) -> None:
        pass


def make_holder(world: World) -> Holder:
    """The target's side, over fakes."""
    ports = TargetPorts(
        FakeRuntime(world, "target"),
        FakeNetwork(world, "target"),
        FakeDisk(world),
        FakeClock(),
        FakeJournal(world, "target"),
        FakeInspector(),
        FakeHooks(world, "target"),
    )
    return Holder(ports, PurePosixPath("/var/lib/migrator"))


def make_ports(world: World) -> SourcePorts:
    """What the source acts through."""
    return SourcePorts(
        FakeRuntime(world, "source"),
        FakeNetwork(world, "source"),
        FakeDisk(world, "source"),
        FakeClock(),
        FakeInspector(),
        FakeHooks(world, "source"),
        FakePlaces(world),
    )


def make_driver(world: World, holder: Holder, name: str = "box", peer: FakePeer | None = None) -> Driver:
    """The source's side, over fakes, with a link to HOLDER, by a PEER of its own or an ordinary one."""
    journal = FakeJournal(world, "source")
    ports = make_ports(world)
    task = Task(MIGRATION, name, Options(memory=world.memory, warm=True), "10.0.0.1", "a:7777")
    return Driver(task, ports, peer or FakePeer(world, holder), lambda: journal.create(MIGRATION), world.events.append)
