"""Verdicts follow from samples, and say so when there are none."""

import pytest

from benchmarks.fs import ROWS, contenders, goals
from benchmarks.fs.sampling import Sample, Samples


def samples(row: str, *cells: tuple[str, str, float], condition: str = "loopback") -> Samples:
    return Samples(Sample(row, what, who, condition, value, "s", 0.0) for what, who, value in cells)


@pytest.mark.parametrize("row", ROWS)
def test_nothing_measured_is_nothing_met(row: str) -> None:
    assert not any(verdict.met for verdict in goals.judge(row, Samples()))


@pytest.mark.parametrize(("seconds", "met"), [(9.0, True), (10.0, True), (10.1, False)])
def test_a_goal_is_judged_by_medians(seconds: float, met: bool) -> None:
    taken = samples(
        "hydrate",
        *(("big", contenders.VOYFS, value) for value in (0.1, seconds, 99.0)),
        *(("big", contenders.RSYNC, value) for value in (10.0, 3.0, 11.0)),
    )
    (verdict,) = [verdict for verdict in goals.judge("hydrate", taken) if verdict.met is not None]
    assert verdict.met is met


def test_distance_compares_throughput_through_the_same_relay() -> None:
    taken = samples("distance", ("big", contenders.VOYFS, 3.0), condition="0 ms")
    taken += samples("distance", ("big", contenders.VOYFS, 4.0), condition="14 ms")
    taken += samples("distance", ("big", contenders.VOYFS, 1.0))  # loopback is not to count
    (verdict,) = [verdict for verdict in goals.judge("distance", taken) if verdict.met is not None]
    assert verdict.figure.startswith("0.75 x")
    assert verdict.met


def test_latency_compares_percentiles_of_all_reads() -> None:
    taken = samples(
        "latency",
        *(("demand read, idle", contenders.VOYFS, 1.0) for _ in range(99)),
        ("demand read, idle", contenders.VOYFS, 50.0),
        *(("demand read, hydrating", contenders.VOYFS, 2.0) for _ in range(90)),
        *(("demand read, hydrating", contenders.VOYFS, 4.0) for _ in range(10)),
    )
    (verdict,) = goals.judge("latency", taken)
    assert verdict.met is False
    assert verdict.figure.startswith("4.00 x")


def test_the_first_write_may_fetch_one_chunk() -> None:
    cells = [
        ("first write into an absent big file", contenders.VOYFS, 4.0),
        ("first write into an absent file of one chunk", contenders.VOYFS, 3.0),
    ]
    fetched = "first write into an absent big file: fetched"
    (one,) = goals.judge("first-write", samples("first-write", *cells, (fetched, contenders.VOYFS, 128.0)))
    (two,) = goals.judge("first-write", samples("first-write", *cells, (fetched, contenders.VOYFS, 256.0)))
    assert (one.met, two.met) == (True, False)
