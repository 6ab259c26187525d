"""Readahead: never less than what is read, never more than is allowed, nothing for random reads."""

from hypothesis import given
from hypothesis import strategies as st

from voyfs.core.extents import Extent
from voyfs.core.prefetch import Window

SMALLEST, WIDEST = 10, 160
READS = st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 50)), max_size=30)


@given(READS)
def test_a_read_is_never_shortened_and_lengthened_within_bounds(reads: list[tuple[int, int]]) -> None:
    window = Window(SMALLEST, WIDEST)
    for start, length in reads:
        wide = window.read(Extent(start, start + length))
        assert wide.start == start
        assert 0 <= wide.length - length <= WIDEST


@given(st.integers(0, 1000), st.lists(st.integers(1, 50), min_size=8, max_size=20))
def test_reading_in_order_widens_to_the_most(start: int, lengths: list[int]) -> None:
    window = Window(SMALLEST, WIDEST)
    ahead = []
    for length in lengths:
        ahead.append(window.read(Extent(start, start + length)).length - length)
        start += length
    assert ahead == sorted(ahead)
    assert ahead[-1] == WIDEST
    assert ahead[0] == 0


@given(st.integers(200, 1000))
def test_jumping_stops_it(to: int) -> None:
    window = Window(SMALLEST, WIDEST)
    for start in range(0, 100, 10):
        window.read(Extent(start, start + 10))
    far = 100 + WIDEST + to
    assert window.read(Extent(far, far + 10)) == Extent(far, far + 10)


def test_the_kernels_own_reordering_within_the_window_is_no_jump() -> None:
    window = Window(SMALLEST, WIDEST)
    for start in range(0, 100, 10):
        window.read(Extent(start, start + 10))
    window.read(Extent(120, 130))
    assert window.read(Extent(130, 140)).length > 10
