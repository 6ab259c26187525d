"""Offers divide extents without losing or moving a byte."""

from hypothesis import given
from hypothesis import strategies as st

from voyfs.core.extents import Extent
from voyfs.core.offers import DIGEST_BYTES, Offer, digest_of, divided, offered_parts

cuts = st.lists(st.integers(0, 300), unique=True, max_size=12).map(sorted)
extents = cuts.map(lambda at: [Extent(*pair) for pair in zip(at[::2], at[1::2], strict=False)])


@given(extents, st.integers(1, 64))
def test_what_may_be_offered_is_all_and_within_chunks(asked: list[Extent], chunk: int) -> None:
    parts = list(divided(asked, chunk))
    assert [byte for part in parts for byte in range(*part)] == [byte for extent in asked for byte in range(*extent)]
    assert all(part.start // chunk == (part.stop - 1) // chunk for part in parts)


@given(extents, st.integers(1, 64), st.data())
def test_parts_are_the_extents_and_know_their_offers(asked: list[Extent], chunk: int, data: st.DataObject) -> None:
    times = data.draw(st.lists(st.integers(0, 3), min_size=400, max_size=400))
    offered = [part for part, count in zip(divided(asked, chunk), times, strict=False) for _ in range(count)]
    parts = list(offered_parts(asked, offered))
    assert [byte for part, _ in parts for byte in range(*part)] == [byte for extent in asked for byte in range(*extent)]
    assert [index for _, indexes in parts for index in indexes] == list(range(len(offered)))
    assert all(offered[index] == part for part, indexes in parts for index in indexes)
    assert all(part.length for part, _ in parts)


def test_an_offer_knows_where_it_is() -> None:
    digest = digest_of(b"data")
    assert len(digest) == DIGEST_BYTES
    assert Offer(7, b"data", digest).extent == Extent(7, 11)
