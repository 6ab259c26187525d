"""Giving up, over fakes: in time it goes back, at whatever act; too late it says what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from migrator.core.advice import advise
from migrator.core.errors import (
    Aborted,
    Insecure,
    MigrationUnknown,
    MigratorError,
    Refused,
    RuntimeFailed,
    Stranded,
    TooLate,
)
from migrator.core.phases import Hold, Phase
from migrator.core.plan import Container, Options
from migrator.driver import Driver
from tests.migrator.test_driver import IN_FREEZE
from tests.migrator.test_migrations import last_of, make_migrations
from tests.migrator.world import CONTAINER, FakePeer, FakeRuntime, World, make_driver, make_holder


def aborting_at(world: World, driver: Driver, act: str) -> None:
    """Whoever aborts does it while ACT is under way."""
    happened = world.check

    def check() -> None:
        happened()
        if act in world.acts and "aborted" not in world.acts:
            world.acts.append("aborted")
            driver.abort()

    world.check = check  # type: ignore[method-assign]


@pytest.mark.parametrize("act", [act for act in IN_FREEZE if act != "source: journal commit"])
def test_before_the_commit_the_source_goes_on(act: str) -> None:
    world = World()
    driver = make_driver(world, make_holder(world))
    aborting_at(world, driver, act)
    with pytest.raises(Aborted):
        driver.run()
    world.check_source_has_it()
    assert "link: cancel" in world.acts


@pytest.mark.parametrize("act", ["link: commit", "target: release", "source: destroy", "target: hydrate"])
def test_after_the_commit_it_is_too_late(act: str) -> None:
    world = World()
    driver = make_driver(world, make_holder(world))
    caught: list[TooLate] = []
    abort = driver.abort

    def late() -> None:
        try:
            abort()
        except TooLate as error:
            caught.append(error)

    driver.abort = late  # type: ignore[method-assign]
    aborting_at(world, driver, act)
    driver.run()
    world.check_target_has_it()
    assert len(caught) == 1
    assert caught[0].remedy


def test_one_that_has_ended_is_told_as_it_is() -> None:
    world = World(fail="target: restore")
    migrations = make_migrations(world)
    gone_back = migrations.start("box", "b", Options())
    last_of(migrations, gone_back)
    assert migrations.abort(gone_back)["phase"] == Phase.ROLLED_BACK
    moved = migrations.start("box", "b", Options())
    last: Mapping[str, Any] = last_of(migrations, moved)
    assert last["event"] == "result"
    with pytest.raises(TooLate, match="done"):
        migrations.abort(moved)
    with pytest.raises(MigrationUnknown):
        migrations.abort("never")


def undecided(phase: Phase) -> World:
    """Left by an agent that is gone."""
    world = World()
    facts = {"side": "source", "container": CONTAINER.to_json(), "identity": None, "exports": [], "target": "b"}
    world.journals["source"]["m0"] = [{"decision": "prepare", **facts, "options": {}}, {"decision": str(phase)}]
    return world


@pytest.mark.parametrize(
    ("phase", "kind", "still"),
    [
        (Phase.PREPARE, Refused, "runs on this host"),
        (Phase.RESTORE, Stranded, "stands still"),
        (Phase.ROLLBACK, Stranded, "may stand still"),
    ],
)
def test_one_that_could_not_be_picked_up_is_not_said_to_be_given_up(
    phase: Phase, kind: type[MigratorError], still: str
) -> None:
    world = undecided(phase)
    migrations = make_migrations(world)

    def connect(target: str) -> FakePeer:
        raise Insecure("the certificate is gone", remedy="give another one")

    migrations._connect = connect
    migrations.recover()
    with pytest.raises(kind, match=f"certificate is gone; container box {still}") as caught:
        migrations.abort("m0")
    assert "give another one, then start" in caught.value.remedy
    assert still in migrations.describe("m0")["advice"]
    assert world.journals["source"]["m0"][-1]["decision"] == phase, "nothing was written"


def test_one_that_could_not_be_resumed_is_not_said_to_run() -> None:
    world = World(fail="target: restore")
    migrations = make_migrations(world)

    def resume(runtime: FakeRuntime, container: Container) -> None:
        raise RuntimeFailed("no such cgroup")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeRuntime, "resume", resume)
        migration = migrations.start("box", "b", Options())
        last_of(migrations, migration)
        with pytest.raises(Stranded, match="no such cgroup"):
            migrations.abort(migration)


def test_who_aborts_while_it_is_picked_up_tries_again() -> None:
    migrations = make_migrations(undecided(Phase.RESTORE))
    with pytest.raises(Refused, match="being picked up"):
        migrations.abort("m0")


@pytest.mark.parametrize("phase", [*Phase, *Hold])
def test_every_state_that_waits_for_something_has_advice(phase: str) -> None:
    ended = {Phase.ROLLED_BACK, Phase.RETURNED, Hold.ABSENT, Hold.DETACHED, Hold.LEFT, Hold.DISCARDED}
    assert bool(advise(phase, "m1", "box", "b:1")) == (phase not in ended)
