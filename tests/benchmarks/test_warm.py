"""How the demand after a migration is judged."""

import pytest

from benchmarks.warm import Sample, goals


@pytest.mark.parametrize(("demand", "met"), [((0, 5, 90), True), ((0, 6, 6), False)])
def test_the_median_share_is_held_against_the_goal(demand: tuple[int, ...], met: bool) -> None:
    samples = [Sample(1, 100, each, 1, 100, 0.0) for each in demand]
    assert goals(samples).ok is met
