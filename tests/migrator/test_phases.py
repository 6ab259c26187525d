"""The protocol's tables, explored: two sides, a link that loses, repeats and reorders, and nothing else."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.core.errors import Refused
from migrator.core.phases import (
    DECIDED,
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
        case Step.RELEASED:
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


def explore() -> dict[State, set[State]]:
    """Every reachable state, with its successors."""
    reached: dict[State, set[State]] = {}
    waiting = deque([START])
    while waiting:
        state = waiting.popleft()
        if state not in reached:
            reached[state] = set(successors(state))
            waiting.extend(reached[state])
    return reached


REACHED = explore()


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
    parents: dict[State, set[State]] = {state: set() for state in REACHED}
    for state, nexts in REACHED.items():
        for following in nexts:
            parents[following].add(state)
    waiting = deque(good)
    leading = set(good)
    while waiting:
        for parent in parents[waiting.popleft()] - leading:
            leading.add(parent)
            waiting.append(parent)
    assert leading == set(REACHED)


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
