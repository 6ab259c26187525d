"""Taking a commit back, over fakes: what is kept until when, who may ask for what, and what is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Any

import pytest
from typer.testing import CliRunner

from migrator.cli import app
from migrator.core import limits
from migrator.core.advice import no_way_back
from migrator.core.duration import parse_duration
from migrator.core.errors import MigrationUnknown, MigratorError, PeerUnreachable, Refused, Taken, TooLate
from migrator.core.host import Needs
from migrator.core.phases import COMING, RELEASED, REVERSIBLE, Hold, Phase
from migrator.core.plan import Options
from migrator.generated import migrator_pb2 as pb
from migrator.migrations import Migrations
from migrator.places import arrival, place_for
from migrator.returning import Returns
from migrator.wire import event_from_wire, options_from_wire, options_to_wire
from tests.migrator.test_driver import ORDER, served
from tests.migrator.test_migrations import last_of, make_migrations
from tests.migrator.world import (
    CONTAINER,
    IDENTITY,
    MIGRATION,
    FakeDisk,
    FakeJournal,
    FakePeer,
    World,
    make_driver,
    make_holder,
)

HOUR = Options(failback_window=3600.0, remove_source=True)


def moved(world: World, options: Options) -> tuple[Migrations, str]:
    """A migration that has come to its end, but for what it keeps."""
    migrations = make_migrations(world)
    migration = migrations.start("box", "b", options)
    assert last_of(migrations, migration)["event"] == "result"
    return migrations, migration


def removed(world: World) -> bool:
    return "source: remove root" in world.acts


def test_without_a_window_nothing_is_kept() -> None:
    world = World()
    migrations, migration = moved(world, Options(remove_source=True))
    assert migrations.describe(migration)["phase"] == Phase.DONE
    assert world.left == [("/b/box", False)]
    assert removed(world)


def test_the_copy_is_kept_for_the_window_and_not_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    migrations, migration = moved(world, HOUR)
    known = migrations.describe(migration)
    assert known["phase"] == Phase.KEEP
    assert known["result"]["kept_until"] == known["kept_until"] > 3600
    assert "rollback" in known["advice"]
    world.check_target_has_it()  # which needs the source no more
    migrations._keeper.sweep()
    assert world.left == []
    assert not removed(world)
    monkeypatch.setattr(migrations._ports.clock, "wall", lambda: known["kept_until"] - 0.1)
    migrations._keeper.sweep()
    assert world.left == []
    monkeypatch.setattr(migrations._ports.clock, "wall", lambda: known["kept_until"])
    migrations._keeper.sweep()
    assert world.left == [("/b/box", False)]
    assert removed(world)
    assert migrations.describe(migration)["phase"] == Phase.DONE
    migrations._keeper.sweep()
    assert world.left == [("/b/box", False)]


def test_an_agent_that_comes_after_keeps_and_clears_as_well() -> None:
    world = World()
    _, migration = moved(world, HOUR)
    later = make_migrations(world)
    later.recover()
    assert later.describe(migration)["active"] is False
    later._keeper.sweep()
    assert world.left == []
    world.journals["source"][migration][0]["options"]["remove_source"] = False
    later._ports.clock.wall = lambda: 1e9  # type: ignore[method-assign]
    later._keeper.sweep()
    assert world.left == [("/b/box", True)]
    assert not removed(world)


@pytest.mark.parametrize("coming", sorted(COMING))
def test_what_a_container_left_is_kept_while_it_comes_back(coming: Hold) -> None:
    world = World(arrival=coming)
    migrations, migration = moved(world, Options())
    assert migrations.describe(migration)["phase"] == Phase.KEEP
    assert migrations.describe(migration)["result"]["kept_until"] is None
    migrations._keeper.sweep()
    assert world.left == []
    world.arrival = Hold.DETACHED
    migrations._keeper.sweep()
    assert world.left == [("/b/box", True)]
    known = migrations.describe(migration)
    assert (known["phase"], known["advice"]) == (Phase.RETURNED, "")


def test_a_way_back_that_fails_leaves_the_window_as_it_was() -> None:
    world = World(arrival=Hold.RESTORING)
    migrations, migration = moved(world, HOUR)
    world.arrival = Hold.ABSENT
    migrations._keeper.sweep()
    assert migrations.describe(migration)["phase"] == Phase.KEEP
    assert world.left == []


def test_what_cannot_be_cleared_away_is_tried_again() -> None:
    world = World(fail="source: leave")
    migrations, migration = moved(world, HOUR)
    migrations._ports.clock.wall = lambda: 1e9  # type: ignore[method-assign]
    migrations._keeper.sweep()
    assert migrations.describe(migration)["phase"] == Phase.KEEP
    migrations._keeper.sweep()
    assert migrations.describe(migration)["phase"] == Phase.DONE


def test_a_journal_that_is_gone_or_lacks_something_is_in_nobodys_way() -> None:
    world = World()
    migrations, first = moved(world, HOUR)
    migrations._keeper.keep("gone")
    migrations._keeper.keep("odd")
    world.journals["source"]["odd"] = [{"decision": Phase.KEEP}]
    migrations._ports.clock.wall = lambda: 1e9  # type: ignore[method-assign]
    migrations._keeper.sweep()
    assert migrations._keeper._kept == set()
    assert world.journals["source"][first][-1]["decision"] == Phase.DONE


@pytest.mark.parametrize("back", sorted(RELEASED))
def test_a_container_that_is_back_needs_nothing_of_the_host_that_it_was_on(back: Hold) -> None:
    world = World(arrival=back, exported=True, source="gone", source_link="gone", target="running", target_link="open")
    world.journals["source"][MIGRATION] = [{"decision": "commit"}, {"decision": "hydrate"}]
    driver = make_driver(world, make_holder(world))

    def lost(*_: object) -> Any:
        raise PeerUnreachable("it is gone")

    for word in ("hydrate", "standing", "verify", "detach"):
        setattr(driver._peer, word, lost)
    result = driver.go_on(Phase.HYDRATE, CONTAINER, IDENTITY, served(world))
    assert result["outcome"] == "returned"
    assert driver.phase is Phase.RETURNED
    assert not world.exported
    assert world.left == [("/b/box", True)]


def test_an_abort_finds_nothing_to_do_once_it_is_back() -> None:
    world = World(arrival=Hold.DETACHED)
    migrations, migration = moved(world, Options())
    assert migrations.abort(migration)["phase"] == Phase.RETURNED


# Where it lives.


def record(journal: FakeJournal, migration: str, decision: str, **first: Any) -> None:
    """A journal of one decision."""
    journal._all[migration] = [{"decision": decision, "time": 0.0, **first}]


def source(bundle: str) -> dict[str, Any]:
    return {"side": "source", "container": {"name": "box", "bundle": bundle, "root": f"{bundle}/root"}}


class TakenDisk(FakeDisk):
    """Where everything but a second place is taken."""

    def taken(self, directory: str) -> str:
        return "" if directory.endswith("~2") else "exists already"


def test_a_container_lives_beside_its_old_place_only_while_that_is_needed() -> None:
    world = World()
    containers = make_holder(world)._containers
    usual = str(containers / "box")
    journal, taken = FakeJournal(world, "target"), TakenDisk(world)
    assert place_for("box", containers, FakeDisk(world), journal) == usual
    assert place_for("box", containers, taken, journal) == usual  # and so it is refused there
    record(journal, "m1", Phase.HYDRATE, **source("/elsewhere"))
    record(journal, "m2", Phase.DONE, **source(usual))
    assert place_for("box", containers, taken, journal) == usual
    record(journal, "m3", Phase.KEEP, **source(usual))
    assert place_for("box", containers, FakeDisk(world), journal) == usual
    assert place_for("box", containers, taken, journal) == f"{usual}~2"


@pytest.mark.parametrize(("phase", "refused"), [(Phase.COMMIT, True), (Phase.HYDRATE, False), (Phase.DONE, False)])
def test_what_is_being_handed_over_does_not_come_back_yet(phase: Phase, refused: bool) -> None:
    world = World(exported=True)
    holder = make_holder(world)
    record(FakeJournal(world, "target"), "m0", phase, **source("/b/box"))
    assert holder.probe("box", IDENTITY, Needs()).container_taken is refused
    with pytest.raises(Taken) if refused else nullcontext():
        holder.prepare(ORDER)
    assert world.mounted is not refused


def test_how_far_it_has_come_back_is_what_later_migrations_say() -> None:
    journal = FakeJournal(World(), "target")
    record(journal, "m1", Hold.DETACHED, side="target", container="box")
    record(journal, "m2", Phase.HYDRATE, **source("/b/box"))
    assert arrival("m2", journal) is Hold.ABSENT
    record(journal, "m3", Hold.OPEN, side="target", container="other")
    record(journal, "m4", Hold.DISCARDED, side="target", container="box")
    assert arrival("m2", journal) is Hold.ABSENT
    record(journal, "m5", Hold.OPEN, side="target", container="box")
    record(journal, "m6", Hold.DISCARDED, side="target", container="box")
    assert arrival("m2", journal) is Hold.OPEN
    assert arrival("never", journal) is Hold.ABSENT


# Asking for it.


class Giver(FakePeer):
    """A target that gives back, or not."""

    events: tuple[Mapping[str, Any] | MigratorError, ...] = ()
    asked: tuple[str, Options] | None = None

    def give_back(self, migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        self.asked = (migration, options)
        for event in self.events:
            if isinstance(event, MigratorError):
                raise event
            yield event


def returns(world: World, *events: Mapping[str, Any] | MigratorError) -> tuple[Migrations, Returns, Giver]:
    migrations = make_migrations(world)
    giver = Giver(world, make_holder(world))
    giver.events = events
    return migrations, Returns(migrations, migrations._journal, lambda target: giver), giver


STARTED = {"event": "started", "migration": "r1"}
RESULT = {"event": "result", "migration": "r1", "result": {}}


@pytest.mark.parametrize("phase", sorted(REVERSIBLE))
def test_the_target_is_asked_while_there_is_a_copy_here(phase: Phase) -> None:
    world = World()
    migrations, back, giver = returns(world, STARTED, RESULT)
    options = Options(verify=False, compress=True, failback_window=5.0, remove_source=True)
    migration = migrations.start("box", "b", options)
    last_of(migrations, migration)
    world.journals["source"][migration].append({"decision": phase})
    assert list(back.roll_back(migration)) == [STARTED, RESULT]
    assert giver.asked == (migration, Options(verify=False, compress=True))


@pytest.mark.parametrize("phase", sorted(set(Phase) - REVERSIBLE))
def test_else_it_is_said_why_not_and_what_helps(phase: Phase) -> None:
    world = World()
    _, back, giver = returns(world)
    world.journals["source"]["m0"] = [
        {"decision": "prepare", "time": 0, "target": "b:1", "options": {}, **source("/b/box")},
        {"decision": phase, "time": 1},
    ]
    with pytest.raises(TooLate if phase is Phase.DONE else Refused) as caught:
        next(back.roll_back("m0"))
    assert caught.value.message == no_way_back(phase, "m0", "box", "b:1").message
    expected = {Phase.DONE: "migrator migrate box", Phase.COMMIT: "again", Phase.DUMP: "migrator abort m0"}
    assert expected.get(phase, "") in caught.value.remedy
    assert giver.asked is None


def test_an_unknown_one_and_one_that_comes_here_are_not_rolled_back() -> None:
    world = World()
    _, back, _ = returns(world)
    with pytest.raises(MigrationUnknown):
        next(back.roll_back("never"))
    world.journals["source"]["m0"] = [{"decision": "open", "time": 0, "side": "target", "source_agent": "c:1"}]
    with pytest.raises(Refused, match="comes to this host") as caught:
        next(back.roll_back("m0"))
    assert "c:1" in caught.value.remedy


@pytest.mark.parametrize("told", [0, 1])
def test_a_target_that_is_not_heard_is_said_so(told: int) -> None:
    world = World()
    migrations, back, _ = returns(world, *[STARTED][:told], PeerUnreachable("gone", remedy="look there"))
    _, migration = moved(world, HOUR)
    with pytest.raises(PeerUnreachable) as caught:
        list(back.roll_back(migration))
    assert ("goes on" in caught.value.remedy) == bool(told)
    assert migrations.describe(migration)["phase"] == Phase.KEEP


# Being asked.


@pytest.mark.parametrize("hold", [Hold.OPEN, Hold.DETACHED])
def test_whoever_is_asked_migrates_to_where_it_came_from(hold: Hold) -> None:
    world = World()
    migrations, back, _ = returns(world)
    targets: list[str] = []
    connect = migrations._connect
    migrations._connect = lambda target: targets.append(target) or connect(target)  # type: ignore[func-returns-value]
    world.journals["source"]["m0"] = [
        {"decision": hold, "time": 0, "side": "target", "container": "box", "source_agent": "a:1"}
    ]
    events = list(back.give_back("m0", Options()))
    assert targets == ["a:1"]
    assert events[-1]["event"] == "result"


@pytest.mark.parametrize("hold", sorted(set(Hold) - {Hold.OPEN, Hold.DETACHED}))
def test_who_does_not_have_it_says_so(hold: Hold) -> None:
    world = World()
    _, back, _ = returns(world)
    world.journals["source"]["m0"] = [{"decision": hold, "time": 0, "side": "target", "container": "box"}]
    with pytest.raises(Refused, match="not there"):
        back.give_back("m0", Options())
    world.journals["source"]["m1"] = [{"decision": "hydrate", "time": 0, "side": "source"}]
    with pytest.raises(Refused, match="did not come"):
        back.give_back("m1", Options())
    with pytest.raises(MigrationUnknown):
        back.give_back("never", Options())


def test_options_cross_and_what_is_none_is_refused() -> None:
    options = Options(verify=False, volumes={"/x": "skip"}, network="hooks", compress=True)
    assert options_from_wire(options_to_wire("m", options)) == options
    for message in (
        pb.GiveBackRequest(network="odd"),
        pb.GiveBackRequest(network="veth", volumes={"/x": "copy"}),
    ):
        with pytest.raises(Refused):
            options_from_wire(message)


@pytest.mark.parametrize("text", [b"", b"[]", b"\xff", b'{"event": "x"}', b'{"event": 1, "migration": "m"}'])
def test_what_is_no_event_is_an_error(text: bytes) -> None:
    with pytest.raises(MigratorError, match="no event"):
        event_from_wire(pb.Event(json=text))


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90", 90), ("1.5s", 1.5), ("15m", 900), ("2h", 7200), ("30d", 2592000)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    assert parse_duration(text, limits.WINDOW_SECONDS) == seconds


@pytest.mark.parametrize("text", ["", "s", "-1", "1w", "1 h", "nan", "inf", "1e9", "1h30m", "31d", "9" * 10, "٣"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"no length|longer"):
        parse_duration(text, limits.WINDOW_SECONDS)


@pytest.mark.parametrize(
    "words",
    [
        ["--failback-window", "31d"],
        ["--failback-window", "soon"],
        ["--seed", "relative"],
        [word for number in range(5) for word in ("--seed", f"/{number}")],
    ],
)
def test_options_that_make_no_sense_are_wrong_usage(words: list[str]) -> None:
    done = CliRunner().invoke(app, ["migrate", "box", "b", "--socket", "/nowhere", *words])
    assert (done.exit_code, words[0] in done.output) == (2, True)
