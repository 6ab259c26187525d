"""How the demand after a migration is judged, and how clients fared."""

import pytest

from benchmarks.warm.bench import goals
from benchmarks.warm.loads import Sample
from benchmarks.warm.rates import Rates, rates


def sample(application: str, demand: int) -> Sample:
    return Sample(application, 1000, 100, demand, 1, 100, 0.5, 1.0, 0.0)


@pytest.mark.parametrize(("demand", "met"), [((0, 5, 90), True), ((0, 6, 6), False)])
def test_the_median_share_is_held_against_the_goal(demand: tuple[int, ...], met: bool) -> None:
    assert goals([sample("redis", each) for each in demand]).ok is met


def test_each_application_has_to_meet_the_goal() -> None:
    assert not goals([sample("redis", 0), sample("redis", 0), sample("postgresql", 6)]).ok


def test_rates_are_of_whole_seconds_around_the_migration() -> None:
    """100 a second before; none while it is frozen, at 120.5; 40 after, and 90 from 140 on."""
    rate = {
        second: 100 if second <= 120 else 0 if second == 121 else 40 if second <= 140 else 90
        for second in range(100, 160)
    }
    said = "".join(
        f"progress: {second}.000 s, {tps}.0 tps, lat 7.6 ms stddev 2.1, 0 failed\n" for second, tps in rate.items()
    )
    assert rates(f"pgbench (17)\n{said}", 120.0, 120.5, 140.0) == Rates(100.0, 40.0, 90.0)
    with pytest.raises(ValueError, match="all the time"):
        rates(said, 120.0, 120.5, 159.5)
