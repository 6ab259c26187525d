"""The driver and the holder together, over fakes: order of effects, and a failure at each of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from migrator.core import limits
from migrator.core.errors import (
    ContainerUnknown,
    DiskFailed,
    MigratorError,
    NetworkFailed,
    NoSpace,
    PeerUnreachable,
    Refused,
    RuntimeFailed,
    Stranded,
    Taken,
    Unfinished,
)
from migrator.core.host import Needs
from migrator.core.identity import Identity
from migrator.core.phases import Hold, Phase
from migrator.core.plan import Container, Order
from migrator.exports import Exports
from tests.migrator.world import (
    CONFIG,
    CONTAINER,
    IDENTITY,
    MIGRATION,
    Crash,
    FakeDisk,
    FakeExport,
    FakeMounted,
    FakeRecord,
    World,
    make_driver,
    make_holder,
)


def served(world: World) -> Exports:
    """The one export of the world, as an earlier run of the agent left it."""
    return Exports(FakeDisk(world), [CONTAINER.root], [FakeExport(world)])


def run(world: World) -> MigratorError | None:
    """Migrate; the error, if there was one."""
    try:
        make_driver(world, make_holder(world)).run()
    except MigratorError as error:
        return error
    return None


def _acts() -> list[str]:
    world = World()
    assert run(world) is None
    return world.acts


ORDER = Order("m1", "box", CONFIG, IDENTITY, "a:1")
ACTS = _acts()
IN_FREEZE = [
    name for name in ACTS if ACTS.index("source: pause") <= ACTS.index(name) <= ACTS.index("source: journal commit")
]


def before(world: World, *names: str) -> None:
    """The acts happened, in this order."""
    positions = [world.acts.index(name) for name in names]
    assert positions == sorted(positions), dict(zip(names, positions, strict=True))


def test_moves_the_container() -> None:
    world = World()
    result = make_driver(world, make_holder(world)).run()
    world.check_target_has_it()
    assert result["outcome"] == "moved"
    assert result["timeline"]["downtime_s"] > 0
    assert [phase["phase"] for phase in result["timeline"]["phases"]] == [
        "prepare",
        "freeze",
        "dump",
        "restore",
        "commit",
        "hydrate",
        "detach",
    ]
    assert result["image_bytes"] == sum(map(len, [b"core", b"page" * 100, b"inventory"]))


def test_what_a_container_goes_on_writing_to_is_there_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    world, ends = World(), []
    monkeypatch.setattr(FakeMounted, "fetch_ends", lambda _, paths: ends.append((list(paths), world.source)))
    run(world)
    assert ends == [(["/data"], "paused")], "what was opened and not fetched whole, once it is at rest"


def test_effects_come_in_the_order_that_the_guarantees_need() -> None:
    world = World()
    run(world)
    before(
        world, "source: journal freeze", "source: pause", "source: cut", "source: dump core-1.img", "target: restore"
    )
    before(world, "target: restore", "source: journal commit", "target: open", "target: release", "source: destroy")
    before(world, "source: destroy", "source: remove link", "target: hydrate", "target: verify", "target: detach")
    before(world, "source: cut", "target: attract", "target: refresh", "target: restore")
    before(world, "target: prefetch", "target: warm", "source: pause")


def test_nothing_but_the_needed_happens_in_the_freeze() -> None:
    world = World()
    run(world)
    start, end = world.acts.index("source: pause"), world.acts.index("target: release")
    assert sorted(world.acts[start : end + 1]) == sorted(
        [
            "source: pause",
            "source: cut",
            "source: journal dump",
            "link: freeze",
            "target: attract",
            "target: refresh",
            "link: send",
            "source: dump core-1.img",
            "source: dump pages-1.img",
            "source: dump inventory.img",
            "target: accept core-1.img",
            "target: accept pages-1.img",
            "target: accept inventory.img",
            "source: journal restore",
            "link: restore",
            "target: journal restoring",
            "target: restore",
            "target: set times",
            "target: hook after-restore",
            "target: journal held",
            "source: journal commit",
            "link: commit",
            "target: release",
            "target: open",
        ]
    )


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", ACTS)
def test_a_failure_at_any_act_leaves_exactly_one(act: str, after: bool) -> None:
    world = World(fail=act, fail_after=after)
    error = run(world)
    world.check()
    if world.committed:
        assert error is None or isinstance(error, Unfinished)
        assert (world.source, world.target, world.target_link) == ("gone", "running", "open")
        if error is None:
            world.check_target_has_it()
    else:
        assert error is not None
        assert not isinstance(error, Unfinished | Stranded)
        world.check_source_has_it()


@pytest.mark.parametrize("act", IN_FREEZE)
def test_a_lost_target_does_not_keep_the_source_from_resuming(act: str) -> None:
    world = World(fail=act)
    holder = make_holder(world)
    driver = make_driver(world, holder)

    def lost(migration: str) -> None:
        raise PeerUnreachable("gone")

    driver._peer.abort = lost  # type: ignore[method-assign]
    with pytest.raises(MigratorError):
        driver.run()
    assert (world.source, world.source_link) == ("running", "open")
    holder.abort(MIGRATION)  # the target learns the outcome later, by asking
    world.check_source_has_it()


def test_says_which_container_is_unknown() -> None:
    world = World()
    with pytest.raises(ContainerUnknown):
        make_driver(world, make_holder(world), name="nobody").run()
    world.check_source_has_it()


def test_a_source_that_cannot_resume_is_reported_with_the_command() -> None:
    world = World(fail="target: restore")
    driver = make_driver(world, make_holder(world))

    def stuck(container: Container) -> None:
        raise MigratorError("stuck")

    driver._ports.runtime.resume = stuck  # type: ignore[method-assign]
    with pytest.raises(Stranded, match="could not be resumed") as caught:
        driver.run()
    assert "resume" in caught.value.remedy
    assert world.source == "paused"
    assert not world.mounted


def restart(world: World) -> None:
    """Both agents come back with their journals, and go on as the agent does."""
    world.fail, world.dead = "", False
    holder = make_holder(world)
    holder.recover()
    decisions = [entry["decision"] for entry in world.journals["source"].get(MIGRATION, [])]
    if not decisions:
        world.exported = world.dump_room = False  # the agent ends and removes what no journal knows
        return
    driver = make_driver(world, holder)
    last = Phase(decisions[-1])
    identity: Identity = IDENTITY
    if last in (Phase.DONE, Phase.ROLLED_BACK):
        return
    if "commit" in decisions:
        driver.go_on(last, CONTAINER, identity, served(world))
    else:
        with pytest.raises(MigratorError, match="restarted"):
            driver.go_back(CONTAINER, identity, served(world))


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", ACTS)
def test_a_crash_of_both_agents_at_any_act_leaves_exactly_one(act: str, after: bool) -> None:
    world = World(fail=act, fail_after=after, crash=True)
    driver = make_driver(world, make_holder(world))
    with suppress(Crash):
        driver.run()
    world.check()
    restart(world)
    world.check()
    if world.committed:
        world.check_target_has_it()
    else:
        world.check_source_has_it()


@pytest.mark.parametrize("name", ["../box", "", ".", "a/b", "-rf", "a\nb"])
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    world = World()
    with pytest.raises(Refused, match="no name"):
        make_holder(world).probe(name, None, Needs())
    for order in (replace(ORDER, container=name), replace(ORDER, migration=name)):
        with pytest.raises(Refused, match="no name"):
            make_holder(world).prepare(order)
    assert world.acts == []


def test_what_was_there_before_is_never_discarded() -> None:
    world = World(target="running", mounted=True, directory=True, target_link="open", source="gone")
    world.journals["source"]["m0"] = [{"decision": "commit"}]
    with pytest.raises(Taken):
        make_holder(world).prepare(ORDER)
    assert world.acts == []


def test_a_target_without_space_for_its_journal_takes_the_next_migration(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.exported = True
    holder = make_holder(world)

    def full(*_: object, **__: object) -> None:
        raise NoSpace("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FakeRecord, "write", full)
        with pytest.raises(NoSpace):
            holder.prepare(ORDER)
    holder.prepare(replace(ORDER, migration="m2"))
    assert holder.standing("m2") is Hold.PREPARED


def test_a_network_that_could_not_be_built_is_not_removed() -> None:
    world = World(fail="target: build network")
    world.exported = True
    with pytest.raises(NetworkFailed):
        make_holder(world).prepare(ORDER)
    assert "target: remove link" not in world.acts


def test_a_directory_that_could_not_be_claimed_is_not_removed() -> None:
    world = World(fail="target: claim directory")
    with pytest.raises(DiskFailed):
        make_holder(world).prepare(ORDER)
    assert "target: remove directory" not in world.acts
    assert "target: remove link" in world.acts


def test_a_journal_that_lacks_something_does_not_keep_the_others_from_being_picked_up() -> None:
    world = World(fail="link: restore", crash=True, fail_after=True)
    with suppress(Crash):
        make_driver(world, make_holder(world)).run()
    world.dead, world.fail = False, ""
    entries = world.journals["target"].pop(MIGRATION)
    world.journals["target"] = {"odd": [{"decision": "held", "side": "target"}], MIGRATION: entries}
    holder = make_holder(world)
    holder.recover()
    assert [move.migration for move in holder.moves.undecided()] == [MIGRATION]


@pytest.mark.parametrize("journal", ["held", "lost"])
def test_a_target_that_lost_the_copy_before_it_opened_is_not_insisted_on(journal: str) -> None:
    world = World(fail="link: commit", crash=True)
    with suppress(Crash):
        make_driver(world, make_holder(world)).run()
    world.dead, world.fail = False, ""
    assert world.journals["target"][MIGRATION][-1] == {"decision": "held"}
    world.target = "none"  # the target lost power
    if journal == "lost":
        world.journals["target"].clear()
    holder = make_holder(world)
    holder.recover()
    driver = make_driver(world, holder)
    with pytest.raises(Stranded, match="does not have it any more") as caught:
        driver.go_on(Phase.COMMIT, CONTAINER, IDENTITY, served(world))
    assert "resume box" in caught.value.remedy
    assert (world.source, world.source_link) == ("paused", "cut")
    assert world.mounted  # it may have been opened for a moment: what it wrote then is for the operator to judge
    assert world.directory


def test_a_target_that_answers_otherwise_after_the_commit_is_insisted_on() -> None:
    world = World(fail="target: release")
    make_driver(world, make_holder(world)).run()
    assert world.acts.count("target: release") == 2
    world.check_target_has_it()


def test_a_held_copy_is_durable_before_the_source_hears_of_it() -> None:
    world = World()
    run(world)
    # What may be forgotten by a loss of power is discarded afterwards as what came before it would be.
    assert world.volatile == {"source": ["dump", "restore"], "target": ["restoring"]}


def test_of_moves_that_have_ended_the_oldest_are_left_to_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REMEMBERED", 2)
    world = World()
    holder = make_holder(world)
    make_driver(world, holder).run()
    for number in range(10):
        holder.abort(f"overtaken-{number}")
    assert len(holder.moves.holds()) <= 4
    assert holder.moves.remembered(MIGRATION) is None
    assert holder.standing(MIGRATION) is Hold.DETACHED
    holder.detach(MIGRATION)  # said again, for its answer was lost
    holder.commit(MIGRATION)
    with pytest.raises(Refused):
        holder.abort(MIGRATION)
    with pytest.raises(Refused, match="before"):
        holder.prepare(replace(ORDER, container="other", migration=MIGRATION))
    world.check_target_has_it()


def test_a_source_without_threads_goes_back_all_the_same() -> None:
    world = World(fail="target: restore")
    holder = make_holder(world)
    driver = make_driver(world, holder)
    submit = driver._pool.submit

    def some(act: Callable[..., Any], *arguments: Any) -> Any:
        if act == driver._abort:
            raise RuntimeError("can't start new thread")
        return submit(act, *arguments)

    driver._pool.submit = some  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeFailed):
        driver.run()
    assert (world.source, world.source_link) == ("running", "open")
    holder.abort(MIGRATION)
    world.check_source_has_it()


def test_a_preparation_that_waits_for_a_lost_source_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ABORT_FIRST_SECONDS", 0.01)
    world, waiting, unmounted = World(exported=True), threading.Event(), threading.Event()

    def look_up(mounted: FakeMounted, paths: Sequence[str]) -> None:
        waiting.set()
        assert unmounted.wait(60)
        raise DiskFailed("unmounted")

    def discard(mounted: FakeMounted) -> None:
        world.mounted = False
        unmounted.set()

    monkeypatch.setattr(FakeMounted, "look_up", look_up)
    monkeypatch.setattr(FakeMounted, "discard", discard)
    holder = make_holder(world)
    with ThreadPoolExecutor(1) as pool:
        preparing = pool.submit(holder.prepare, replace(ORDER, look_up=("/data",)))
        assert waiting.wait(60)
        holder.abort(ORDER.migration)
        assert isinstance(preparing.exception(60), DiskFailed)
    assert holder.standing(ORDER.migration) is Hold.DISCARDED
    assert (world.mounted, world.directory, world.target_link) == (False, False, "none")
