"""How memory moves: which way is chosen, rounds before the freeze, and pages after it, over fakes."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from migrator.core.errors import MigratorError, NotReady, Stranded, Unfinished
from migrator.core.memory import GAIN, PIPE_BYTES, ROUNDS, Means, Memory, another_round, choose, still_bytes
from migrator.core.plan import Progress
from migrator.core.prediction import Link, Load
from tests.migrator.test_driver import restart, run
from tests.migrator.world import Crash, World, make_driver, make_holder

ALL = Means(("mem_dirty_track",), ("uffd-noncoop",), PIPE_BYTES)
NOTHING = Means((), (), 1 << 20)
MIB = 1 << 20


LINK = Link(100e6, 0.001)


def load(memory_mib: int, dirty_rate: float | None = None, shared_mib: int = 0) -> Load:
    return Load(memory_mib * MIB, 0, 0, dirty_rate, shared_bytes=shared_mib * MIB)


@pytest.mark.parametrize(
    ("asked", "means", "memory_mib", "chosen"),
    [
        (Memory.STOP_COPY, ALL, 10_000, Memory.STOP_COPY),
        (Memory.POST_COPY, ALL, 1, Memory.POST_COPY),
        (Memory.PRE_COPY, ALL, 1, Memory.PRE_COPY),
        (Memory.AUTO, ALL, 10, Memory.STOP_COPY),
        (Memory.AUTO, ALL, 1000, Memory.PRE_COPY),
        (Memory.AUTO, replace(ALL, source=()), 1000, Memory.POST_COPY),
        (Memory.AUTO, NOTHING, 1000, Memory.STOP_COPY),
    ],
)
def test_auto_leaves_stop_copy_where_that_pays_and_a_way_is_open(
    asked: Memory, means: Means, memory_mib: int, chosen: Memory
) -> None:
    assert choose(asked, means, LINK, load(memory_mib)) is chosen


def test_auto_leaves_pre_copy_where_memory_changes_faster_than_it_moves() -> None:
    assert choose(Memory.AUTO, ALL, LINK, load(1000, 10e6)) is Memory.PRE_COPY
    assert choose(Memory.AUTO, ALL, LINK, load(1000, 100e6)) is Memory.POST_COPY
    assert choose(Memory.AUTO, replace(ALL, target=()), LINK, load(1000, 100e6)) is Memory.STOP_COPY


def test_auto_knows_that_shared_memory_does_not_follow() -> None:
    lazily = replace(ALL, source=())
    assert choose(Memory.AUTO, lazily, LINK, load(1000, shared_mib=1000)) is Memory.STOP_COPY
    assert choose(Memory.AUTO, lazily, LINK, load(1000, shared_mib=500)) is Memory.POST_COPY, "it is half of it"


def test_what_moves_during_the_freeze_is_what_the_way_leaves_for_it() -> None:
    assert still_bytes(Memory.STOP_COPY, LINK, load(1000)) == 1000 * MIB
    assert still_bytes(Memory.POST_COPY, LINK, load(1000, shared_mib=3)) == 3 * MIB
    slow, fast = (still_bytes(Memory.PRE_COPY, LINK, load(1000, rate)) for rate in (1e6, 50e6))
    assert 0 < slow < fast < 10 * MIB
    assert still_bytes(Memory.PRE_COPY, LINK, load(1000, 100e6)) == 1000 * MIB, "no round gets ahead"
    assert still_bytes(Memory.PRE_COPY, LINK, load(1, 1e12)) == MIB
    assert 0 < still_bytes(Memory.PRE_COPY, LINK, load(1000)) < 10 * MIB


@pytest.mark.parametrize(
    ("asked", "means", "names", "remedy"),
    [
        (Memory.PRE_COPY, NOTHING, "MEM_SOFT_DIRTY", "post-copy"),
        (Memory.POST_COPY, replace(ALL, target=()), "userfaultfd", "stop-copy"),
        (Memory.POST_COPY, replace(ALL, lazily=False), "--lazy-pages", "runc"),
        (Memory.POST_COPY, replace(ALL, pipe_bytes=PIPE_BYTES - 1), "pipes", f"fs.pipe-max-size={PIPE_BYTES}"),
    ],
)
def test_a_way_that_is_closed_is_refused_by_name(asked: Memory, means: Means, names: str, remedy: str) -> None:
    with pytest.raises(NotReady, match=names) as caught:
        choose(asked, means, LINK, load(1))
    assert remedy in caught.value.remedy


def test_rounds_go_on_as_long_as_they_pay() -> None:
    assert another_round([])
    assert another_round([(1000, 1.0)])
    assert another_round([(1000, 1.0), (500, 0.5)])
    assert not another_round([(1000, 1.0), (1000 * GAIN + 1, 0.9)]), "changed as fast as it is sent"
    assert not another_round([(1000, 1.0), (10, 0.01)]), "little is left"
    assert not another_round([(int(1e9 / 2**n), 10.0) for n in range(ROUNDS)]), "a limit"


def test_memory_moves_in_rounds_before_the_freeze(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("migrator.core.memory.LAST_SECONDS", 0.0)  # the fakes take no time
    world = World(memory="pre-copy", dirty=(1000, 400, 100, 90))
    result = make_driver(world, make_holder(world)).run()
    world.check_target_has_it()
    assert world.rounds == 4, "the fourth moved nearly what the third did"
    assert world.acts.index("source: pause") > max(n for n, act in enumerate(world.acts) if act == "source: round")
    prepare = result["timeline"]["phases"][0]
    assert result["memory"] == "pre-copy"
    assert prepare["phase"] == "prepare"


def test_the_sources_copy_goes_when_all_pages_have_come() -> None:
    world = World(memory="post-copy")
    assert run(world) is None
    world.check_target_has_it()
    assert world.page_calls > 2
    assert world.acts.index("target: release") < world.acts.index("link: pages") < world.acts.index("source: destroy")


def _acts() -> list[str]:
    world = World(memory="post-copy")
    assert run(world) is None
    return list(dict.fromkeys(world.acts))


POST_COPY_ACTS = _acts()


@pytest.mark.parametrize("crash", [False, True], ids=["fails", "crashes"])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", POST_COPY_ACTS)
def test_a_failure_at_any_act_of_post_copy_leaves_exactly_one(act: str, after: bool, crash: bool) -> None:
    """The fakes know besides that a source which serves pages must neither go nor run."""
    world = World(fail=act, fail_after=after, crash=crash, memory="post-copy")
    with suppress(Crash, MigratorError):
        make_driver(world, make_holder(world)).run()
    world.check()
    if crash:
        restart(world)
        world.check()
    if world.committed:
        assert (world.source, world.target, world.target_link) == ("gone", "running", "open")
    else:
        world.check_source_has_it()


def test_lost_pages_end_the_migration_and_the_source_keeps_its_copy() -> None:
    world = World(memory="post-copy")
    holder = make_holder(world)
    driver = make_driver(world, holder)
    pages = driver._peer.pages

    def lose(migration: str) -> Progress:
        world.pages_lost = world.page_calls >= 1
        return pages(migration)

    driver._peer.pages = lose  # type: ignore[method-assign]
    with pytest.raises(Stranded, match="lost"):
        driver.run()
    assert world.source == "paused", "an operator may still want what it was"
    assert world.source_link == "cut"
    assert world.target == "none"


def test_pages_lost_before_the_word_are_not_opened() -> None:
    world = World(memory="post-copy")
    holder = make_holder(world)
    driver = make_driver(world, holder)
    commit = driver._peer.commit

    def lose(migration: str):  # type: ignore[no-untyped-def]
        world.pages_lost = True
        return commit(migration)

    driver._peer.commit = lose  # type: ignore[method-assign]
    with pytest.raises(Stranded):
        driver.run()
    assert world.target_link == "closed"
    assert "target: release" not in world.acts


def test_the_source_stops_insisting_on_pages_when_its_agent_stops() -> None:
    world = World(memory="post-copy")
    driver = make_driver(world, make_holder(world))

    def away(migration: str) -> Progress:
        world.serving = True
        driver._ports.clock.wait = lambda seconds: True  # type: ignore[method-assign]
        return Progress.of_memory(0, 0, 0.0, complete=False)

    driver._peer.pages = away  # type: ignore[method-assign]
    with pytest.raises(Unfinished):
        driver.run()
    assert (world.source, world.target, world.serving) == ("paused", "running", True)
