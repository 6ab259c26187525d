"""The protocol's tables, explored: two sides, a link that loses, repeats and reorders, and nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.core.errors import Refused
from migrator.core.phases import (
    DECIDED,
    ENDED,
    HOME,
    MAY_SEND,
    OPENED,
    RELEASED,
    SOURCE,
    SOURCE_COPY,
    TARGET,
    TARGET_COPY,
    Copy,
    Hold,
    Phase,
    Step,
    Word,
    source_step,
    target_step,
)


class State(NamedTuple):
    """Both sides, every word ever sent (it may still arrive, again and late), and whether the source's copy is gone.

    What the target reports is read by the source directly: a report may come late, but what it says stays true, since
    the target goes back from HELD or later only by the word "abort".
    """

    source: Phase
    target: Hold
    sent: frozenset[Word]
    destroyed: bool


START = State(Phase.PREPARE, Hold.ABSENT, frozenset(), False)


def may_take(state: State, step: Step) -> bool:
    """What the source must have heard of the target before it takes a step."""
    match step:
        case Step.PREPARED:
            return state.target in (Hold.PREPARED, Hold.RESTORING, Hold.HELD)
        case Step.DECIDED:
            return state.target is Hold.HELD
        case Step.OPENED:
            return state.target in OPENED and state.destroyed
        case Step.RELEASED | Step.KEPT:
            return state.target in RELEASED
        case _:
            return True


def successors(state: State) -> Iterator[State]:
    """Everything that can happen next."""
    for (phase, step), following in SOURCE.items():
        if phase is state.source and may_take(state, step):
            yield state._replace(source=following)
    if state.source in DECIDED and state.target in OPENED and not state.destroyed:
        yield state._replace(destroyed=True)
    for word in MAY_SEND[state.source] - state.sent:
        yield state._replace(sent=state.sent | {word})
    for (hold, word), following_hold in TARGET.items():
        if hold is state.target and (word in state.sent or word in (Word.RESTORED, Word.LEAVE)):
            yield state._replace(target=following_hold)


T = TypeVar("T")


def explore(start: T, after: Callable[[T], Iterable[T]]) -> dict[T, set[T]]:
    """Every reachable state, with its successors."""
    reached: dict[T, set[T]] = {}
    waiting = deque([start])
    while waiting:
        state = waiting.popleft()
        if state not in reached:
            reached[state] = set(after(state))
            waiting.extend(reached[state])
    return reached


def leading_to(good: set[T], reached: dict[T, set[T]]) -> set[T]:
    """The states from which some steps lead to a good one."""
    parents: dict[T, set[T]] = {state: set() for state in reached}
    for state, nexts in reached.items():
        for following in nexts:
            parents[following].add(state)
    waiting = deque(good)
    leading = set(good)
    while waiting:
        for parent in parents[waiting.popleft()] - leading:
            leading.add(parent)
            waiting.append(parent)
    return leading


REACHED = explore(START, successors)


def test_explores_something() -> None:
    assert {state.source for state in REACHED} == set(Phase)
    assert {state.target for state in REACHED} == set(Hold)


def test_two_never_run() -> None:
    for state in REACHED:
        assert (SOURCE_COPY[state.source], TARGET_COPY[state.target]) != (Copy.RUNS, Copy.RUNS), state


def test_one_can_always_be_made_to_run() -> None:
    for state in REACHED:
        source = Copy.NONE if state.destroyed else SOURCE_COPY[state.source]
        assert (source, TARGET_COPY[state.target]) != (Copy.NONE, Copy.NONE), state


def test_exactly_one_runs_in_the_end_from_wherever_it_is() -> None:
    good = {s for s in REACHED if (SOURCE_COPY[s.source] is Copy.RUNS) != (s.target in OPENED)}
    assert leading_to(good, REACHED) == set(REACHED)


def test_the_target_never_hears_both_words() -> None:
    assert not any({Word.COMMIT, Word.ABORT} <= state.sent for state in REACHED)


def test_a_decision_is_never_taken_back() -> None:
    for state, nexts in REACHED.items():
        if state.source in DECIDED:
            assert all(following.source in DECIDED for following in nexts)


def test_a_held_copy_is_freed_only_by_commit_and_lost_only_by_abort() -> None:
    for (hold, word), following in TARGET.items():
        if hold is Hold.HELD:
            assert (word, following) in {(Word.COMMIT, Hold.OPEN), (Word.ABORT, Hold.DISCARDED)}


@given(st.sampled_from(Phase), st.sampled_from(Step))
def test_what_is_not_in_the_source_table_is_refused(phase: Phase, step: Step) -> None:
    if (phase, step) in SOURCE:
        assert source_step(phase, step) is SOURCE[phase, step]
    else:
        with pytest.raises(Refused, match=step.value):
            source_step(phase, step)


@given(st.lists(st.sampled_from(Word)))
def test_no_words_bring_a_running_copy_down(words: list[Word]) -> None:
    hold, opened = Hold.ABSENT, False
    for word in words:
        try:
            hold = target_step(hold, word)
        except Refused:
            continue
        opened = opened or hold in OPENED
        assert not opened or hold in OPENED


class Pair(NamedTuple):
    """A migration from A to B, and the way back from B to A. BACK is None until B's agent has begun it."""

    there: State
    back: State | None

    @property
    def runs(self) -> tuple[Copy, Copy]:
        """What there is of the container at A and at B: the later migration's tables answer where it has come to."""
        if self.back is None:
            return SOURCE_COPY[self.there.source], TARGET_COPY[self.there.target]
        at_a, at_b = TARGET_COPY[self.back.target], SOURCE_COPY[self.back.source]
        if at_a is Copy.NONE and not self.there.destroyed:
            at_a = SOURCE_COPY[self.there.source]
        return at_a, Copy.NONE if self.back.destroyed else at_b


def pair_successors(pair: Pair) -> Iterator[Pair]:
    """Everything that can happen next; a step that depends on the other migration waits for what it must see of it."""
    there, back = pair
    for following in successors(there):
        came_back = following.source is Phase.RETURNED and there.source is not Phase.RETURNED
        if came_back and (back is None or back.target not in RELEASED):
            continue
        if following.target is Hold.LEFT and there.target is not Hold.LEFT and not (back and back.source in ENDING):
            continue
        yield Pair(following, back)
    if back is None:
        if there.target in HOME:
            yield Pair(there, START)
        return
    for following in successors(back):
        prepared = following.target is Hold.PREPARED and back.target is not Hold.PREPARED
        if prepared and there.source is Phase.COMMIT:
            continue  # what it was at A is, or after a crash might be again, about to be taken down
        if following.target is Hold.LEFT:
            continue  # it would take a third migration
        yield Pair(there, following)


ENDING = frozenset({Phase.DETACH, Phase.KEEP})


PAIRS = explore(Pair(START, None), pair_successors)


def test_there_and_back_two_never_run() -> None:
    assert {pair.back.target for pair in PAIRS if pair.back} == set(Hold) - {Hold.LEFT}
    assert any(pair.there.source is Phase.HYDRATE and pair.back and pair.back.target is Hold.OPEN for pair in PAIRS)
    for pair in PAIRS:
        assert pair.runs != (Copy.RUNS, Copy.RUNS), pair


def test_there_and_back_one_can_always_be_made_to_run() -> None:
    for pair in PAIRS:
        assert set(pair.runs) & {Copy.RUNS, Copy.HELD, Copy.ELSEWHERE}, pair


def test_there_and_back_both_end_and_one_runs() -> None:
    ended = {p for p in PAIRS if p.there.source in ENDED and (p.back is None or p.back.source in ENDED)}
    good = {pair for pair in ended if pair.runs.count(Copy.RUNS) == 1}
    assert {pair.there.source for pair in good} == ENDED
    assert leading_to(good, PAIRS) == set(PAIRS)
