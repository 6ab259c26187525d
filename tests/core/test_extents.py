"""Chunk arithmetic held against sets of byte numbers."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from voyfs.core.extents import Extent, chunk_count, chunk_extent, chunks_touched, coalesce

chunks = st.integers(1, 64)
sizes = st.integers(0, 2000)
extents = st.tuples(sizes, sizes).map(lambda pair: Extent(min(pair), max(pair)))


def byte_numbers(extent: Extent) -> set[int]:
    return set(range(extent.start, extent.stop))


@given(extents, chunks)
def test_touched_chunks_are_those_that_share_a_byte(extent: Extent, chunk: int) -> None:
    expected = {byte // chunk for byte in byte_numbers(extent)}
    assert set(chunks_touched(extent, chunk)) == expected


@given(extents, sizes)
def test_a_clipped_extent_is_what_lies_below(extent: Extent, stop: int) -> None:
    clipped = extent.clip(stop)
    assert byte_numbers(clipped) == {byte for byte in byte_numbers(extent) if byte < stop}
    assert clipped.length == len(byte_numbers(clipped))


@given(sizes, chunks)
def test_the_chunks_of_a_file_are_its_bytes_exactly(size: int, chunk: int) -> None:
    parts = [chunk_extent(index, chunk, size) for index in range(chunk_count(size, chunk))]
    assert all(0 < part.length <= chunk for part in parts)
    assert [byte for part in parts for byte in range(*part)] == list(range(size))
    assert chunk_extent(chunk_count(size, chunk), chunk, size).length == 0


@given(st.sets(st.integers(0, 60)), chunks, sizes, st.integers(1, 8))
def test_coalesced_extents_are_the_chunks_joined(indexes: set[int], chunk: int, limit: int, most: int) -> None:
    longest = most * chunk
    joined = list(coalesce(sorted(indexes), chunk, limit, longest))
    wanted = [byte for index in sorted(indexes) for byte in range(*chunk_extent(index, chunk, limit))]
    assert [byte for extent in joined for byte in range(*extent)] == wanted
    assert all(0 < extent.length <= longest for extent in joined)
    assert all(extent.start % chunk == 0 for extent in joined)
    for before, after in pairwise(joined):
        # Two neighbours stay apart only where together they would be too long.
        assert before.stop < after.start or before.length + min(after.length, chunk) > longest


@given(sizes, chunks)
def test_an_empty_extent_touches_nothing(start: int, chunk: int) -> None:
    assert not chunks_touched(Extent(start, start), chunk)
    assert list(coalesce([], chunk, start, chunk)) == []
