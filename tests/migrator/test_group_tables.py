"""The group's table beside those of its members, explored: two members, their links, and crashes of the source."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from migrator.core.errors import Refused
from migrator.core.group import (
    AFTER,
    GROUP,
    NEEDS,
    Ruling,
    Stop,
    Verdict,
    member_step,
    rule,
    settled,
    verdict_of,
)
from migrator.core.phases import (
    DECIDED,
    MAY_SEND,
    OPENED,
    SOURCE,
    SOURCE_COPY,
    TARGET,
    TARGET_COPY,
    Copy,
    Hold,
    Phase,
    Step,
    Word,
)
from tests.migrator import test_phases
from tests.migrator.test_phases import may_take

# A hold from which no member's part in its group can be told any more: what follows is explored without a group.
HOLDS = frozenset(Hold) - {Hold.DETACHED, Hold.LEFT}
PHASES = frozenset(Phase) - {Phase.DETACH, Phase.KEEP, Phase.DONE, Phase.RETURNED}


class Member(NamedTuple):
    """One of them; `frozen`: its tasks stand still, whatever its phase says yet."""

    state: test_phases.State
    frozen: bool


class State(NamedTuple):
    """`verdict` as the agent has it, and `written` what its disk says of it."""

    verdict: Verdict
    written: bool
    one: Member
    two: Member


FIRST = Member(test_phases.START, frozen=False)
START = State(Verdict.UNDECIDED, written=False, one=FIRST, two=FIRST)

# Which states of the source count as having been at a stop.
BEEN: dict[Stop, Callable[[Member], bool]] = {
    Stop.PREPARED: lambda member: member.state.target is not Hold.ABSENT,
    Stop.FROZEN: lambda member: member.frozen,
    Stop.HELD: lambda member: member.state.source is Phase.RESTORE and member.state.target is Hold.HELD,
}


def _stepping(member: Member, other: Member, verdict: Verdict) -> Iterator[Member]:
    """What one member can do, or what can happen to it."""
    state = member.state
    for phase, step in SOURCE:
        if phase is not state.source or not may_take(state, step):
            continue
        # The verdict stands for the last stop: who gave it had looked.
        if step in AFTER and step not in NEEDS and not (BEEN[AFTER[step]](member) and BEEN[AFTER[step]](other)):
            continue
        try:
            following = member_step(phase, step, verdict)
        except Refused:
            continue
        if following in PHASES:
            yield Member(state._replace(source=following), member.frozen and following is not Phase.ROLLED_BACK)
    if state.source is Phase.FREEZE and not member.frozen:
        yield member._replace(frozen=True)
    if state.source in DECIDED and state.target in OPENED and not state.destroyed:
        yield member._replace(state=state._replace(destroyed=True))
    for word in MAY_SEND[state.source] - state.sent:
        yield member._replace(state=state._replace(sent=state.sent | {word}))
    for (hold, word), following_hold in TARGET.items():
        if hold is state.target and (word in state.sent or word is Word.RESTORED) and following_hold in HOLDS:
            yield member._replace(state=state._replace(target=following_hold))


def _crashed(member: Member, verdict: Verdict) -> Member:
    """After a restart. The line of its COMMIT may have been lost, not the group's: it is read as if it were there."""
    state = member.state
    read = Phase.RESTORE if state.source is Phase.COMMIT else state.source
    return member._replace(state=state._replace(source=settled(read, verdict)))


def successors(state: State) -> Iterator[State]:
    """Everything that can happen next."""
    for following in _stepping(state.one, state.two, state.verdict):
        yield state._replace(one=following)
    for following in _stepping(state.two, state.one, state.verdict):
        yield state._replace(two=following)
    for verdict, ruling in GROUP:
        if verdict is not state.verdict:
            continue
        if ruling is Ruling.GIVE_UP:
            yield state._replace(verdict=rule(verdict, ruling))
        elif BEEN[AFTER[Step.DECIDED]](state.one) and BEEN[AFTER[Step.DECIDED]](state.two):
            yield state._replace(verdict=rule(verdict, ruling), written=True)
    found = verdict_of([Verdict.COMMITTED] if state.written else [])
    yield State(found, state.written, _crashed(state.one, found), _crashed(state.two, found))


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
    assert {state.verdict for state in REACHED} == set(Verdict)
    assert {state.one.state.source for state in REACHED} == PHASES
    assert {state.one.state.target for state in REACHED} == HOLDS
    moved = [state for state in REACHED if all(each.state.destroyed for each in (state.one, state.two))]
    back = [state for state in REACHED if {state.one.state.source, state.two.state.source} == {Phase.ROLLED_BACK}]
    assert moved
    assert back


def test_all_or_none() -> None:
    for state in REACHED:
        sent = state.one.state.sent | state.two.state.sent
        assert not {Word.COMMIT, Word.ABORT} <= sent, state
        for one, two in ((state.one.state, state.two.state), (state.two.state, state.one.state)):
            if one.target in OPENED or one.source in DECIDED or one.destroyed:
                assert SOURCE_COPY[two.source] is not Copy.RUNS, state
                assert two.source not in (Phase.ROLLBACK, Phase.ROLLED_BACK), state
                assert two.target not in (Hold.ABSENT, Hold.PREPARED, Hold.RESTORING, Hold.DISCARDED), state


def test_two_of_one_never_run_and_one_can_always_be_made_to() -> None:
    for state in REACHED:
        for each in (state.one.state, state.two.state):
            source = Copy.NONE if each.destroyed else SOURCE_COPY[each.source]
            pair = (source, TARGET_COPY[each.target])
            assert pair != (Copy.RUNS, Copy.RUNS), state
            assert pair != (Copy.NONE, Copy.NONE), state


def test_no_images_are_made_before_all_are_frozen_and_all_stay_so_until_it_is_decided() -> None:
    dumping = (Phase.DUMP, Phase.RESTORE)
    for state in REACHED:
        if state.verdict is Verdict.UNDECIDED and {state.one.state.source, state.two.state.source} & set(dumping):
            assert state.one.frozen, state
            assert state.two.frozen, state


def test_from_wherever_it_is_all_run_on_one_side_in_the_end() -> None:
    def good(state: State) -> bool:
        ends = {state.one.state.source, state.two.state.source}
        opened = {each.state.target in OPENED for each in (state.one, state.two)}
        return (ends == {Phase.ROLLED_BACK} and opened == {False}) or (ends == {Phase.HYDRATE} and opened == {True})

    leading = {state for state in REACHED if good(state)}
    assert leading
    parents: dict[State, set[State]] = {state: set() for state in REACHED}
    for state, nexts in REACHED.items():
        for following in nexts:
            parents[following].add(state)
    waiting = deque(leading)
    while waiting:
        for parent in parents[waiting.popleft()] - leading:
            leading.add(parent)
            waiting.append(parent)
    assert leading == set(REACHED)


def test_a_verdict_is_never_taken_back_and_a_crash_never_decides() -> None:
    for state, nexts in REACHED.items():
        for following in nexts:
            if state.verdict is Verdict.COMMITTED:
                assert following.verdict is Verdict.COMMITTED
            if state.verdict is Verdict.GIVEN_UP:
                assert following.verdict is Verdict.GIVEN_UP
            assert following.verdict is not Verdict.COMMITTED or following.written


@given(st.sampled_from(Phase), st.sampled_from(Step), st.sampled_from(Verdict))
def test_a_step_that_the_verdict_does_not_allow_is_refused(phase: Phase, step: Step, verdict: Verdict) -> None:
    if (phase, step) in SOURCE and NEEDS.get(step, verdict) is verdict:
        assert member_step(phase, step, verdict) is SOURCE[phase, step]
    else:
        with pytest.raises(Refused, match=step.value):
            member_step(phase, step, verdict)


def test_a_committed_group_cannot_be_given_up() -> None:
    with pytest.raises(Refused, match="committed"):
        rule(Verdict.COMMITTED, Ruling.GIVE_UP)
    with pytest.raises(Refused, match="given-up"):
        rule(Verdict.GIVEN_UP, Ruling.COMMIT)


@pytest.mark.parametrize("phase", Phase)
def test_where_a_member_stands_is_the_groups_where_its_own_journal_does_not_say(phase: Phase) -> None:
    assert verdict_of(["undecided"]) is Verdict.GIVEN_UP
    assert verdict_of(["undecided", Verdict.COMMITTED]) is Verdict.COMMITTED
    assert settled(phase, Verdict.GIVEN_UP) is phase
    committed = settled(phase, Verdict.COMMITTED)
    assert committed is phase or (committed is Phase.COMMIT and phase not in DECIDED)
    if phase in (Phase.ROLLBACK, Phase.ROLLED_BACK):
        assert committed is phase, "a contradiction is nothing to act upon"
