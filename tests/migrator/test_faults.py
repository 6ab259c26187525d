"""A few cells of the fault matrix, one of each kind; `make faults` walks all of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.faults import cells
from benchmarks.faults.scene import Scene
from benchmarks.faults.watcher import Look, Watcher

CELLS = [
    ("target full", "prefetch"),
    ("voyfs server", "prefetch"),
    ("criu", "criu pre-resume"),
    ("target agent", "criu pre-restore"),
    ("link out", "restore"),
    ("source agent", "decide"),
    ("target agent", "release"),
    ("both agents", "destroy"),
]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    with Scene() as scene:
        yield scene


@pytest.mark.parametrize(("injury", "point"), CELLS)
def test_one_copy_answers_again_and_nothing_is_left(scene: Scene, injury: str, point: str) -> None:
    [cell] = cells([point], [injury])
    outcome = scene.cell(*cell)
    assert outcome.reached
    assert outcome.problems == ()


def seen(*pairs: tuple[tuple[bool, int], tuple[bool, int]]) -> list[str]:
    """What a watcher says of these looks: acting, and bytes of ticks, of either side."""
    watcher = Watcher(None, None)  # type: ignore[arg-type]
    watcher.looks = [(Look(at, *source), Look(at, *target)) for at, (source, target) in enumerate(pairs)]
    return list(watcher.problems())


def test_the_watcher_sees_what_must_not_be() -> None:
    runs, stands = (True, 10), (False, 20)
    assert seen((runs, (False, -1)), (stands, (False, 20)), ((False, 20), (True, 30))) == []
    assert seen((runs, (False, -1)), (stands, (False, 20)), ((True, 30), (False, -1))) == []
    assert "acted at once" in seen((runs, (True, 10)))[0]
    assert "both copies wrote" in seen((stands, (False, -1)), (stands, (False, 30)), ((True, 40), (False, -1)))[0]
    drained = (stands, (False, -1)), ((True, 20), (False, -1)), ((False, 30), (False, 30)), ((True, 40), (False, -1))
    assert seen(*drained) == [], "it was let go for a moment right after it stood still"
    assert seen() == ["nobody looked"]
