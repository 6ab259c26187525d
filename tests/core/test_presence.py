"""Presence maps against the simplest model there is: a set of chunk numbers and a limit."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from voyfs.core.presence import Presence

CHUNK = 8
SIZES = st.integers(0, 40 * CHUNK) | st.integers(600 * CHUNK, 620 * CHUNK)


class Model(RuleBasedStateMachine):
    """`limit` bytes came from the source; `present` are the chunks that were marked."""

    @initialize(limit=SIZES)
    def start(self, limit: int) -> None:
        self.limit = limit
        self.present: set[int] = set()
        self.map = Presence(limit, CHUNK)

    def _length(self, index: int) -> int:
        return max(0, min((index + 1) * CHUNK, self.limit) - index * CHUNK)

    def _absent(self) -> list[int]:
        count = -(-self.limit // CHUNK)
        return [index for index in range(count) if index not in self.present]

    @rule(index=st.integers(0, 650))
    def mark(self, index: int) -> None:
        assert self.map.mark(index) == (index in self._absent())
        if index * CHUNK < self.limit:
            self.present.add(index)

    @rule(first=st.integers(0, 600), count=st.integers(1, 64))
    def mark_many(self, first: int, count: int) -> None:
        for index in range(first, first + count):
            self.mark(index)

    @rule(limit=SIZES)
    def lower(self, limit: int) -> None:
        self.map.lower(limit)
        self.limit = min(self.limit, limit)

    @rule()
    def write_down_and_read(self) -> None:
        self.map = Presence(self.limit, CHUNK, bytes(self.map))

    @rule(indexes=st.lists(st.integers(0, 650), max_size=20))
    def missing(self, indexes: list[int]) -> None:
        absent = set(self._absent())
        assert self.map.missing(indexes) == [index for index in indexes if index in absent]

    @invariant()
    def agrees(self) -> None:
        absent = self._absent()
        assert list(self.map.absent()) == absent
        assert self.map.absent_bytes == sum(map(self._length, absent))
        assert self.map.complete == (not absent)
        assert self.map.limit == self.limit
        for index in absent:
            assert self.map.extent(index) == (index * CHUNK, index * CHUNK + self._length(index))


TestPresence = Model.TestCase
TestPresence.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


@given(SIZES, st.sets(st.integers(0, 650)), st.integers(0, 650))
def test_absent_can_start_anywhere(limit: int, present: set[int], first: int) -> None:
    presence = Presence(limit, CHUNK)
    for index in present:
        presence.mark(index)
    assert list(presence.absent(first)) == [index for index in presence.absent() if index >= first]


@given(SIZES, st.binary(max_size=100))
def test_any_bits_make_a_consistent_map(limit: int, bits: bytes) -> None:
    """What a database gives back, damaged or written with another limit, counts right at least."""
    presence = Presence(limit, CHUNK, bits)
    assert presence.absent_bytes == sum(presence.extent(index).length for index in presence.absent())


def test_a_map_may_change_while_it_is_walked() -> None:
    presence = Presence(100 * CHUNK, CHUNK)
    walked = []
    for index in presence.absent():
        walked.append(index)
        presence.mark(index + 1)
        if index == 50:
            presence.lower(60 * CHUNK)
    assert walked == list(range(0, 60, 2))
