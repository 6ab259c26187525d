"""Giving up, over fakes: in time it goes back, at whatever act; too late it says what is possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from migrator.core.advice import advise
from migrator.core.errors import Aborted, MigrationUnknown, TooLate
from migrator.core.phases import Hold, Phase
from migrator.core.plan import Options
from migrator.driver import Driver
from tests.migrator.test_driver import IN_FREEZE
from tests.migrator.test_migrations import last_of, make_migrations
from tests.migrator.world import World, make_driver, make_holder


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


@pytest.mark.parametrize("phase", [*Phase, *Hold])
def test_every_state_that_waits_for_something_has_advice(phase: str) -> None:
    ended = {Phase.ROLLED_BACK, Phase.RETURNED, Hold.ABSENT, Hold.DETACHED, Hold.LEFT, Hold.DISCARDED}
    assert bool(advise(phase, "m1", "box", "b:1")) == (phase not in ended)
