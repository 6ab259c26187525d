"""Containers that move together: one decision for all of them, as a table beside those of core.phases.

Pure: no I/O, no clock. Each member is a migration of its own, with the tables of core.phases on both sides; its targets
know nothing of a group. What is added is a verdict of the source, which is one for all members, and which some of a
member's steps need.

What always holds (tests explore every interleaving of two members with their links and crashes):

G1  All or none. A member takes the step DECIDED only with the verdict COMMITTED, and gives up only with GIVEN_UP; no
    step leads from one to the other. So "commit" is sent for some member only if "abort" is sent for none, and whatever
    runs in the end runs on one side.
G2  The verdict COMMITTED is given only when every member's target holds a restored copy, and is durable, in one line of
    the group's journal, before any member acts by it. A member's own line of it comes after, and says no more: one that
    is missing (a crash, a full disk) is read as if it were there.
G3  GIVEN_UP need not be durable. Who finds a group undecided after a crash gives it up: whoever could have decided is
    gone.
G4  Frozen at one instant. No member's images are made before every member is frozen, and as long as nothing is decided
    all stay so. Nothing that one did after its freeze can then be in another's images.

A group's journal is made before those of its members, so one that cannot be found or read is lost, and not "undecided":
nobody goes on with its members then (I1 of core.phases matters more than that one runs). A target that loses a held
copy after the verdict strands its member alone, as it does a migration without a group.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

from migrator.core.errors import Refused
from migrator.core.phases import DECIDED, ENDED, Phase, Step, source_step


class Verdict(StrEnum):
    """What the source has decided about a group."""

    UNDECIDED = "undecided"
    COMMITTED = "committed"
    GIVEN_UP = "given-up"


class Ruling(StrEnum):
    """What decides."""

    COMMIT = "commit"  # every member's target holds its copy
    GIVE_UP = "give-up"


class Stop(StrEnum):
    """Where members wait for each other; none passes before all are there."""

    PREPARED = "prepared"  # before hooks
    ABOUT = "about"  # to be paused
    FROZEN = "frozen"  # and cut
    HELD = "held"  # restored on the target: the verdict follows
    THAWING = "thawing"  # about to be resumed, after it was given up


GROUP: Final[Mapping[tuple[Verdict, Ruling], Verdict]] = {
    (Verdict.UNDECIDED, Ruling.COMMIT): Verdict.COMMITTED,
    (Verdict.UNDECIDED, Ruling.GIVE_UP): Verdict.GIVEN_UP,
    (Verdict.GIVEN_UP, Ruling.GIVE_UP): Verdict.GIVEN_UP,
}

# What a member's step needs of the verdict, and at which stop all must have been before it.
NEEDS: Final[Mapping[Step, Verdict]] = {Step.DECIDED: Verdict.COMMITTED, Step.GIVE_UP: Verdict.GIVEN_UP}
AFTER: Final[Mapping[Step, Stop]] = {Step.PREPARED: Stop.PREPARED, Step.FROZEN: Stop.FROZEN, Step.DECIDED: Stop.HELD}


def rule(verdict: Verdict, ruling: Ruling) -> Verdict:
    """The next verdict; raises `Refused` where the table has none."""
    try:
        return GROUP[verdict, ruling]
    except KeyError:
        raise Refused(f"'{ruling}' does not fit a group that is '{verdict}'") from None


def member_step(phase: Phase, step: Step, verdict: Verdict) -> Phase:
    """A member's next state; raises `Refused` where there is none, or the verdict does not allow it."""
    if NEEDS.get(step, verdict) is not verdict:
        raise Refused(f"'{step}' does not fit a member of a group that is '{verdict}'")
    return source_step(phase, step)


def verdict_of(decisions: Collection[str]) -> Verdict:
    """What the DECISIONS in a group's journal amount to for whoever comes after a crash."""
    return Verdict.COMMITTED if Verdict.COMMITTED in decisions else Verdict.GIVEN_UP


def settled(phase: Phase, verdict: Verdict) -> Phase:
    """Where a member stands whose own journal says PHASE: one that has not decided has, if its group has."""
    undecided = phase not in DECIDED | ENDED | {Phase.ROLLBACK}
    return Phase.COMMIT if undecided and verdict is Verdict.COMMITTED else phase
