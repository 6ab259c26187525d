"""What the benchmark of migrations makes of its samples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from benchmarks.migrate.bench import FLOOR, Sample, goals, load, rows, write
from benchmarks.migrate.contenders import CONTENDERS, NOT_RUN, Moved


def sample(contender: str, gap: float, freeze: float, memory: int = 0) -> Sample:
    return Sample(contender, 1024, memory, 0.5, Moved(gap, freeze, 1000, 1 << 20, 1))


GOOD = [
    sample(FLOOR, 400, 380),
    sample("voyager stop-copy", 210, 200),
    sample("voyager post-copy", 300, 290),
    sample("voyager post-copy", 350, 340, memory=1024),
]


def test_goals_hold_and_are_missed() -> None:
    assert goals(GOOD).ok
    assert len(goals(GOOD).checks) == 3
    for bad in (
        sample("voyager stop-copy", 600, 590),  # beyond the floor
        sample("voyager stop-copy", 300, 200),  # beyond the freeze
    ):
        assert not goals([each for each in GOOD if each.contender != bad.contender] + [bad]).ok
    assert len(goals([*GOOD, replace(GOOD[3], disk_mib=64)]).checks) == 3, "alone with its disk, it has no ratio"
    assert not goals([*GOOD[:3], sample("voyager post-copy", 500, 490, memory=1024)]).ok


def test_results_are_kept_and_added_to(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    assert load(tmp_path / "migrate.json") == GOOD
    text = (tmp_path / "migrate.md").read_text()
    assert all(name in text for name in NOT_RUN)
    assert [row[0] for row in rows(GOOD)][:3] == [each.contender for each in GOOD[:3]]
    assert {each.contender for each in GOOD} < set(CONTENDERS)
