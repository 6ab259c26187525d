"""Packing is asked for as long as it brings more, and both ways go on being measured."""

import itertools

from voyfs.core.limits import MIB
from voyfs.core.packing import MOST_SAMPLES, SAMPLE_BYTES, Packing


def run(packing: Packing, plain: float, packed: float, samples: int) -> list[bool]:
    """What was asked for in each sample, where the link brings `plain` and `packed` bytes a second."""
    asked = []
    for _ in range(samples):
        asked.append(packing.asked)
        for _ in range(SAMPLE_BYTES // MIB):
            packing.took(packing.asked, MIB, MIB / (packed if packing.asked else plain))
    return asked


def test_the_first_is_plain_and_the_second_packed() -> None:
    assert run(Packing(), 1e8, 1e8, 2) == [False, True]


def test_what_brings_more_is_used_and_the_other_tried_ever_more_seldom() -> None:
    for plain, packed in ((1e8, 3e8), (3e8, 1e8)):
        asked = run(Packing(), plain, packed, 1000)
        worse = [number for number, each in enumerate(asked) if each is not (packed > plain)]
        assert 10 < len(worse) < 30
        gaps = [after - before for before, after in itertools.pairwise(worse[1:])]
        assert gaps == sorted(gaps)
        assert gaps[-1] == MOST_SAMPLES + 1


def test_a_link_that_changes_is_noticed() -> None:
    packing = Packing()
    run(packing, 1e9, 1e8, 1000)
    assert not packing.asked
    asked = run(packing, 1e7, 5e7, 200)
    assert all(asked[-10:]) or sum(asked[-10:]) == 9


def test_what_was_asked_for_before_a_change_says_nothing_about_it() -> None:
    packing = Packing()
    run(packing, 1e8, 1e8, 1)
    assert packing.asked
    packing.took(False, 100 * SAMPLE_BYTES, 1e-3)
    run(packing, 1e8, 2e8, 1)
    assert packing.asked, "it was better, and the other is not known to be any better"


def test_no_time_at_all_is_no_division_by_zero() -> None:
    packing = Packing()
    packing.took(False, SAMPLE_BYTES, 0.0)
    assert packing.asked
