"""All migrations of one agent, over fakes: what a log that cannot be written does to them, and what is kept of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import pytest
import structlog

from migrator import logs
from migrator.core import limits
from migrator.core.errors import MigrationUnknown, RuntimeFailed
from migrator.core.phases import Outcome, Phase
from migrator.core.plan import Options
from migrator.feed import Feed
from migrator.migrations import Here, Migrations
from migrator.recorder import Recorder
from tests.migrator.world import (
    CONTAINER,
    FakeClock,
    FakeJournal,
    FakePeer,
    World,
    make_driver,
    make_holder,
    make_ports,
)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


class FullDisk:
    """A log on a disk that is full."""

    write = flush = staticmethod(full)


@pytest.fixture
def _full_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structlog.PrintLogger, "msg", full)
    for name in ("debug", "info", "warning", "error", "exception"):
        monkeypatch.setattr(structlog.PrintLogger, name, full)


def make_migrations(world: World) -> Migrations:
    """The source's, over fakes, with a link to a holder of its own."""
    holder = make_holder(world)
    return Migrations(
        make_ports(world),
        FakeJournal(world, "source"),
        holder,
        lambda target: FakePeer(world, holder),
        lambda peer: Here("10.0.0.1", "a:7777"),
    )


def last_of(migrations: Migrations, migration: str) -> Mapping[str, Any]:
    *_, last = migrations.follow(migration)
    return last


@pytest.mark.usefixtures("_full_log")
def test_a_full_log_keeps_no_source_from_going_back() -> None:
    world = World(fail="target: restore")
    migrations = make_migrations(world)
    last = last_of(migrations, migrations.start("box", "b", Options()))
    assert (last["event"], last["kind"]) == ("error", RuntimeFailed.__name__)
    world.check_source_has_it()
    last = last_of(migrations, migrations.start("box", "b", Options()))
    assert last["event"] == "result"
    world.check_target_has_it()


@pytest.mark.parametrize("problem", [OSError(28, "full"), BrokenPipeError(), ValueError("closed"), KeyError("x")])
def test_a_listener_that_fails_keeps_no_source_from_going_back(problem: Exception) -> None:
    world = World(fail="target: restore")
    driver = make_driver(world, make_holder(world))

    def publish(event: Mapping[str, Any]) -> None:
        raise problem

    driver._recorder = Recorder("m1", FakeClock(), publish)
    with pytest.raises(RuntimeFailed):
        driver.run()
    world.check_source_has_it()


def test_a_stream_that_cannot_be_written_loses_lines_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    stream: Callable[[], TextIO] = FullDisk  # type: ignore[assignment]
    quiet = logs.Quiet(stream())
    assert quiet.write("line\n") == 5
    quiet.flush()
    monkeypatch.setattr(sys, "stderr", sys.__stderr__)
    before = structlog.get_config()
    try:
        logs.configure()
        assert isinstance(structlog.get_config()["logger_factory"]()._file, logs.Quiet)
    finally:
        structlog.configure(**before)


def test_an_unforeseen_failure_ends_the_migration_too() -> None:
    world = World()
    migrations = make_migrations(world)

    def broken(name: str) -> None:
        raise ZeroDivisionError

    migrations._ports.runtime.inspect = broken  # type: ignore[method-assign, assignment]
    assert last_of(migrations, migrations.start("box", "b", Options()))["event"] == "error"
    assert migrations._containers == {}
    del migrations._ports.runtime.inspect
    assert migrations._ports.runtime.inspect("box") == CONTAINER
    assert last_of(migrations, migrations.start("box", "b", Options()))["event"] == "result"


def test_of_migrations_that_have_ended_only_the_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 3)
    migrations = make_migrations(World())
    names = []
    for _ in range(7):
        names.append(migrations.start("nobody", "b", Options()))
        last_of(migrations, names[-1])
    assert list(migrations._feeds) == names[-3:]
    with pytest.raises(MigrationUnknown):
        migrations.follow(names[0])
    migrations.join(1)
    assert len(migrations._threads) <= 2


def test_a_feed_keeps_one_of_many_waitings() -> None:
    feed = Feed()
    for number in range(100):
        feed.publish({"event": "waiting", "number": number})
        feed.publish({"event": "progress", "number": number})
    assert len(feed._events) == 1
    feed.end()
    assert [event["number"] for event in feed.follow()] == [99]


@pytest.mark.parametrize("first", [{}, {"container": 1, "identity": None, "target": "b", "export": {}, "options": {}}])
def test_a_journal_that_lacks_something_is_left_out(first: dict[str, Any]) -> None:
    world = World()
    world.journals["source"]["m0"] = [{"decision": "prepare", "side": "source", "time": 1, **first}]
    world.journals["source"]["m1"] = [{"decision": "unheard-of", "side": "source", "time": 1, **first}]
    migrations = make_migrations(world)
    migrations.recover()
    assert [each["migration"] for each in migrations.all()] == ["m0", "m1"]
    assert migrations._containers == {}


def test_a_target_that_asks_while_the_decision_is_being_written_does_not_hear_of_it_yet() -> None:
    """The line could be read already; if the disk fails to keep it, it is taken back, and the source goes on."""
    world, holder = World(), make_holder(World())
    migrations = make_migrations(world)
    driver = make_driver(world, holder)
    world.journals["source"]["m1"] = [{"decision": "prepare", "side": "source"}, {"decision": "commit"}]
    migrations._drivers["m1"] = driver
    driver.phase = Phase.RESTORE
    assert migrations.outcome_of("m1") is Outcome.UNDECIDED
    driver.phase = Phase.COMMIT
    assert migrations.outcome_of("m1") is Outcome.COMMITTED
    driver.phase = Phase.RESTORE
    del migrations._drivers["m1"]
    assert migrations.outcome_of("m1") is Outcome.COMMITTED, "of an earlier life of the agent"
