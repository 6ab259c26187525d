"""Two drivers and their holders that move together, over fakes: a failure, a crash or an abort at each act of one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from migrator.core import limits
from migrator.core.errors import (
    Aborted,
    Busy,
    GroupGivenUp,
    MigrationUnknown,
    MigratorError,
    Refused,
    TooLate,
    Unfinished,
)
from migrator.core.group import Stop, Verdict
from migrator.core.phases import DECIDED, Outcome, Phase
from migrator.core.plan import Options
from migrator.driver import Driver
from migrator.group import Group
from migrator.holder import Holder
from migrator.migrations import Here, Migrations
from migrator.preparation import Task
from tests.migrator.world import (
    FakeClock,
    FakeJournal,
    FakePeer,
    FakeRecord,
    World,
    make_holder,
    make_ports,
)

NAMES = ("g-1", "g-2")
SECONDS = 60.0


@dataclass
class Twin(World):
    """One of two containers, which must never part."""

    number: int = 0
    twin: Twin = field(init=False, repr=False)
    log: list[tuple[int, str]] = field(default_factory=list)  # of both
    at: str = ""  # the act after which something is done
    then: Any = None

    @contextmanager
    def act(self, name: str, error: type[MigratorError], *, whole: bool = False) -> Iterator[None]:
        self.dead = self.dead or self.twin.dead
        with super().act(name, error, whole=whole):
            if name.startswith("source: dump"):
                assert self.twin.source == "paused", "images of one while the other is not frozen"
            self.log.append((self.number, name))
            yield
        if name == self.at and (act := self.then) is not None:
            self.then = None
            act()

    @property
    def committed(self) -> bool:
        group = self.journals["source"].get("g", [])
        return super().committed or any(entry["decision"] == Verdict.COMMITTED for entry in group)

    def check(self) -> None:
        super().check()
        for one, two in ((self, self.twin), (self.twin, self)):
            assert not (one.target == "running" and two.source == "running"), "one has moved, and the other has not"
            assert one.source != "gone" or two.target in ("held", "running"), "one has moved, and the other cannot"


class Scene:
    """Both hosts, for two containers that move together."""

    def __init__(self, **fail: Any) -> None:
        self.one, self.two = Twin(number=1, **fail), Twin(number=2)
        self.both = (self.one, self.two)
        self.one.twin, self.two.twin = self.two, self.one
        self.two.log = self.one.log
        entries: list[dict[str, Any]] = []
        for world in self.both:
            world.journals["source"]["g"] = entries
        self.group = Group("g", NAMES, lambda: FakeRecord(self.one, "group", entries))
        self.holders = [make_holder(world) for world in self.both]
        self.drivers = [self._driver(*each) for each in zip(NAMES, self.both, self.holders, strict=True)]
        self.errors: list[BaseException | None] = [None, None]

    def _driver(self, name: str, world: Twin, holder: Holder) -> Driver:
        journal = FakeJournal(world, "source")
        task = Task(name, "box", Options(), "10.0.0.1", "a:7777")
        peer = FakePeer(world, holder)
        join = partial(self.group.member, name)
        return Driver(task, make_ports(world), peer, lambda: journal.create(name), world.events.append, join)

    def run(self) -> None:
        """Both, to their ends."""

        def drive(index: int) -> None:
            try:
                self.drivers[index].run()
            except BaseException as error:
                self.errors[index] = error

        threads = [threading.Thread(target=drive, args=(index,), daemon=True) for index in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive(), "it hangs"

    def restart(self) -> list[Migrations]:
        """Both hosts' agents come back with their journals."""
        for world in self.both:
            world.fail, world.dead = "", False
        return [self._recover(world) for world in self.both]

    def _recover(self, world: Twin) -> Migrations:
        holder = make_holder(world)
        holder.recover()
        journal = FakeJournal(world, "source")
        known = any(world.journals["source"].get(name) for name in NAMES)
        if not known:
            world.exported = world.dump_room = False  # the agent ends and removes what no journal knows
        peer = FakePeer(world, holder)
        made = Migrations(make_ports(world), journal, holder, lambda _: peer, lambda _: Here("10.0.0.1", "a:7777"))
        made.recover()
        return made

    def end(self, migrations: list[Migrations]) -> None:
        for each in migrations:
            for name in each.under_way().values():
                assert [*each.follow(name)]

    def check(self) -> None:
        """All or none."""
        if self.one.committed:
            for world in self.both:
                world.check_target_has_it()
        else:
            for world in self.both:
                world.check_source_has_it()


def _acts() -> list[str]:
    scene = Scene()
    scene.run()
    assert scene.errors == [None, None]
    return list(dict.fromkeys(scene.one.acts))


ACTS = _acts()
BEFORE_COMMIT = ACTS[: ACTS.index("group: journal committed")]


def test_both_move() -> None:
    scene = Scene()
    scene.run()
    assert scene.errors == [None, None]
    scene.check()
    log = scene.one.log
    decided = next(index for index, (_, act) in enumerate(log) if act == "group: journal committed")
    for number in (1, 2):
        assert log.index((number, "target: journal held")) < decided
        assert decided < log.index((number, "source: journal commit"))
        assert decided < log.index((number, "link: commit"))
        for other in (1, 2):
            assert log.index((number, "source: cut")) < log.index((other, "source: dump core-1.img"))
            assert log.index((number, "source: hook before-freeze")) < log.index((other, "source: pause"))
    entries = scene.one.journals["source"]
    assert [entry["decision"] for entry in entries["g"]] == ["undecided", "committed"]
    assert entries["g"][0]["members"] == list(NAMES)
    assert entries["g-1"][0]["group"] == "g"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", ACTS)
def test_a_failure_at_any_act_of_one_leaves_all_or_none(act: str, after: bool) -> None:
    scene = Scene(fail=act, fail_after=after)
    scene.run()
    if scene.one.committed:
        assert all(error is None or isinstance(error, Unfinished) for error in scene.errors), scene.errors
        for world in scene.both:
            assert (world.source, world.target, world.target_link) == ("gone", "running", "open")
    else:
        assert all(isinstance(error, MigratorError) for error in scene.errors), scene.errors
        assert any(isinstance(error, GroupGivenUp) for error in scene.errors)
        assert not all(isinstance(error, GroupGivenUp) for error in scene.errors)
        scene.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", ACTS)
def test_a_crash_of_all_agents_at_any_act_of_one_leaves_all_or_none(act: str, after: bool) -> None:
    scene = Scene(fail=act, fail_after=after, crash=True)
    scene.run()
    for world in scene.both:
        world.check()
    scene.end(scene.restart())
    scene.check()


def test_a_member_whose_own_line_is_lost_goes_on_as_its_group_was_decided() -> None:
    scene = Scene(fail="group: journal committed", fail_after=True, crash=True)
    scene.run()
    for name, world in zip(NAMES, scene.both, strict=True):
        assert world.journals["source"][name][-1]["decision"] == Phase.RESTORE
        assert (world.source, world.target) == ("paused", "held")
    migrations = scene.restart()
    assert [each.outcome_of(name) for each, name in zip(migrations, NAMES, strict=True)] == [Outcome.COMMITTED] * 2
    scene.end(migrations)
    assert scene.one.committed
    scene.check()


@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_a_lost_journal_of_the_group_is_no_leave_to_go_back(lost: str) -> None:
    scene = Scene(fail="group: journal committed", fail_after=True, crash=True)
    scene.run()
    for world in scene.both:
        world.journals["source"]["g"] = []
        if lost == "missing":
            del world.journals["source"]["g"]
        world.check = lambda: None  # type: ignore[method-assign]  # it cannot know either
    migrations = scene.restart()
    assert [each.under_way() for each in migrations] == [{}, {}]
    assert [each.outcome_of(name) for each, name in zip(migrations, NAMES, strict=True)] == [Outcome.UNDECIDED] * 2
    assert [(world.source, world.target) for world in scene.both] == [("paused", "held")] * 2


@pytest.mark.parametrize("act", [act for act in BEFORE_COMMIT if act.startswith(("source", "target", "link"))])
def test_who_aborts_one_aborts_all(act: str) -> None:
    scene = Scene()
    scene.one.at, scene.one.then = act, scene.drivers[0].abort
    scene.run()
    assert isinstance(scene.errors[0], Aborted)
    assert isinstance(scene.errors[1], GroupGivenUp)
    assert "aborted" in str(scene.errors[1])
    assert not scene.one.committed
    scene.check()


@pytest.mark.parametrize("act", ["group: journal committed", "link: commit", "source: destroy"])
def test_once_the_group_is_decided_it_is_too_late_for_each(act: str) -> None:
    scene = Scene()
    caught: list[TooLate] = []

    def late() -> None:
        for driver in scene.drivers:
            try:
                driver.abort()
            except TooLate as error:
                caught.append(error)

    # While the line is written the lock is held, so what is asked meanwhile is answered after it.
    scene.one.at, scene.one.then = act, threading.Thread(target=late, daemon=True).start
    scene.run()
    assert scene.errors == [None, None]
    scene.check()
    assert len(caught) == 2


def test_an_agent_that_is_being_stopped_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene()
    stopping = threading.Event()
    monkeypatch.setattr(FakeClock, "wait", lambda *_: stopping.is_set() and not scene.one.committed)
    scene.one.at, scene.one.then = "target: journal held", stopping.set
    scene.run()
    assert not scene.one.committed
    assert any("being stopped" in str(error) for error in scene.errors)
    assert [world.source for world in scene.both] == ["running", "running"]


def test_no_step_is_taken_before_all_are_there() -> None:
    scene = Scene()
    member = scene.drivers[0]._company
    for phase, step in ((Phase.PREPARE, "prepared"), (Phase.FREEZE, "frozen"), (Phase.RESTORE, "decided")):
        with pytest.raises(Refused, match="before all"):
            member.step(phase, step)  # type: ignore[arg-type]
    scene.group._here[Stop.HELD] = set(NAMES)
    with pytest.raises(Refused, match="undecided"):
        member.step(Phase.RESTORE, "decided")  # type: ignore[arg-type]


def test_who_hangs_on_its_way_back_does_not_hold_up_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "THAW_SECONDS", 0.01)
    scene = Scene(fail="target: restore")
    gone = threading.Event()
    go_back = scene.drivers[1]._roll_back

    def hangs(error: BaseException) -> None:
        assert gone.wait(SECONDS)
        go_back(error)

    scene.drivers[1]._roll_back = hangs  # type: ignore[method-assign]
    scene.one.at, scene.one.then = "source: resume", gone.set
    scene.run()
    scene.check()


# -- how a group is begun ---------------------------------------------------------------------


def make_migrations(world: World) -> Migrations:
    holder = make_holder(world)
    journal = FakeJournal(world, "source")
    peer = FakePeer(world, holder)
    return Migrations(make_ports(world), journal, holder, lambda _: peer, lambda _: Here("10.0.0.1", "a:7777"))


@pytest.mark.parametrize("names", [[], ["box"], ["box", "box"], [str(number) for number in range(limits.GROUP + 1)]])
def test_what_is_no_group(names: list[str]) -> None:
    with pytest.raises(Refused, match="each once"):
        make_migrations(World()).start_group(names, "b", Options())


def test_a_group_with_one_that_cannot_be_begun_begins_none() -> None:
    world = World()
    migrations = make_migrations(world)
    migrations._containers["two"] = "m0"
    with pytest.raises(Busy, match="two"):
        migrations.start_group(["box", "two"], "b", Options())
    assert world.acts == []


def test_one_that_is_begun_meanwhile_sends_the_others_back(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    migrations = make_migrations(world)
    monkeypatch.setattr(migrations, "under_way", dict)
    migrations._containers["two"] = "m0"
    with pytest.raises(Busy, match="two"):
        migrations.start_group(["box", "two"], "b", Options())
    migrations.join(SECONDS)
    (feed,) = migrations._feeds.values()
    last: Mapping[str, Any] = feed.last
    assert (last["event"], last["kind"]) == ("error", GroupGivenUp.__name__)
    world.check_source_has_it()


def test_one_that_does_not_exist_sends_the_others_back_and_a_group_is_no_migration() -> None:
    world = World()
    migrations = make_migrations(world)
    names = migrations.start_group(["box", "nobody"], "b", Options())
    last = [[*migrations.follow(name)][-1] for name in names]
    assert [each["kind"] for each in last] == ["GroupGivenUp", "ContainerUnknown"]
    assert "nobody" in last[0]["error"]
    world.check_source_has_it()
    group = names[0].rpartition("-")[0]
    FakeRecord(world, "group", world.journals["source"].setdefault(group, [])).write(
        Verdict.UNDECIDED, side="group", members=names
    )
    assert group not in [each["migration"] for each in migrations.all()]
    with pytest.raises(MigrationUnknown, match="is a group"):
        migrations.describe(group)


def test_decided_phases_need_no_group() -> None:
    world = World()
    world.journals["source"]["m"] = [{"decision": phase, "side": "source", "group": "gone"} for phase in ("prepare",)]
    for phase in DECIDED:
        world.journals["source"]["m"].append({"decision": phase})
        assert make_migrations(world).outcome_of("m") is Outcome.COMMITTED
    world.journals["source"]["m"][1:] = [{"decision": Phase.ROLLBACK}]
    assert make_migrations(world).outcome_of("m") is Outcome.ROLLED_BACK
