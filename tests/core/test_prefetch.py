"""Readahead: never less than what is read, never more than is allowed, nothing for random reads."""

from hypothesis import given
from hypothesis import strategies as st

from voyfs.core.extents import Extent
from voyfs.core.prefetch import Batches, Window

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


FIRST, MOST = 4, 32


def test_small_files_are_brought_from_the_second_miss_in_a_directory_on() -> None:
    batches = Batches(FIRST, MOST)
    assert [batches.missed(7), batches.missed(8), batches.missed(7)] == [0, 0, 0]
    assert batches.missed(7) == FIRST


def test_batches_grow_while_they_are_read_and_the_next_comes_in_time() -> None:
    batches = Batches(FIRST, MOST)
    batches.missed(7)
    counts = [batches.missed(7)]
    number = 0
    for _ in range(6):
        batches.brought(range(number, number + counts[-1]))
        asked = []
        while not any(asked):
            asked.append(batches.read(number))
            number += 1
        assert asked[-1] == min(2 * counts[-1], MOST)
        assert len(batches.unread) >= counts[-1] // 2
        assert batches.read(number) == 0  # once is enough
        number += 1
        counts.append(asked[-1])
    assert counts[-1] == MOST


def test_nothing_more_is_brought_of_a_directory_that_has_nothing_more() -> None:
    batches = Batches(FIRST, MOST)
    batches.missed(7)
    batches.missed(7)
    batches.brought([1])
    assert batches.read(1)
    batches.brought([])
    assert not batches.read(2)
    assert batches.missed(8)


@given(st.integers(0, 8))
def test_batches_that_nobody_reads_shrink_to_nothing(grown: int) -> None:
    batches = Batches(FIRST, MOST)
    for directory in [7] * (grown + 2):
        count = batches.missed(directory)
    for file in range(40):
        batches.brought(range(100 * file, 100 * file + count))
        count = batches.missed(7 + file)
    assert count == 0


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=100))
def test_a_batch_is_never_too_large(steps: list[tuple[bool, int]]) -> None:
    batches = Batches(FIRST, MOST)
    for number, (missed, which) in enumerate(steps):
        count = batches.missed(which) if missed else batches.read(which)
        assert 0 <= count <= MOST
        batches.brought(range(number, number + count))
