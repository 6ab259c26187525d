"""The states of a migration on both sides, and every step between them, as two tables.

Pure: no I/O, no clock. The driver and the target's side go from state to state only through `step`, so what is not in
a table cannot happen. Messages may be lost, repeated or late; agents may restart at any point with what they journaled.

What always holds (tests explore every interleaving of the tables with a lossy, reordering link):

I1  At most one copy runs. A copy *runs* when its tasks can act and the world can see it: the source's copy until it is
    frozen and again after a rollback, the target's copy from OPEN on. A HELD copy is frozen and its network is cut.
I2  The source decides, once: the step into COMMIT is its own, and is durable before anything is done about it. No
    step leads from COMMIT or a later state to ROLLBACK, and none from ROLLBACK to COMMIT.
I3  Only a source in COMMIT or later sends "commit", only one in ROLLBACK or later sends "abort"; so the target never
    hears both.
I4  The source's copy is destroyed only in COMMIT or later, and the target's copy only on "abort".
I5  From every reachable state some steps lead to exactly one running copy. Until COMMIT the source can resume; from
    COMMIT on the target holds, or has opened, its copy.

Memory that follows (post-copy) changes no step. A source in COMMIT has two things to do before OPENED: open the target,
and destroy its copy; in between it waits until the target says that all pages have come, because they are served from
that copy, which stands still meanwhile (held by CRIU, and frozen besides: CRIU's death does not let it go). If they are
lost before the word "commit", the target refuses to open; if afterwards, its copy is killed before any task reads a
zero that is none. Either way the source stays in COMMIT, its copy as it was at the freeze: what the target's did since
is lost with it, and whether the older state is worth resuming is an operator's question, as below.

A container that has been committed comes back by another migration (`migrator rollback`), driven by the target, with
tables of its own. The forward one goes on serving its files until the target has left, and what the container had here
is kept for as long as that takes, and for the failback window (KEEP). A host that has a container in COMMIT refuses
"prepare" for one of that name: it destroys its first copy, and after a crash does so again, by names that both would
have. Tests explore both migrations together.

What the tables do not have is a host that loses its memory. A target that loses power between RESTORED and "commit"
has HELD in its journal, and no copy; one that loses its disk has neither. A source in COMMIT that hears so stops
insisting: its own copy is intact and frozen, for it is destroyed only when the target has opened (I4). It does not
resume that copy by itself, though the target may say durably that it discarded: OPEN is written after the copy was let
go, so that a target that lost power may have run it for a moment and not know, and what it wrote on its disk then would
be lost without a word; and a target that knows nothing may be one that was started on another directory, and comes back
with a held copy (I1). So a decision is never taken back (I2). The error names what an operator, who can see both hosts,
does to resume; and the target keeps the disk until then.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final, TypeVar

from migrator.core.errors import Refused


class Phase(StrEnum):
    """Where a migration stands on the source. The first seven are the phases a user sees."""

    PREPARE = "prepare"  # the container runs; nothing has been touched that it could notice
    FREEZE = "freeze"  # being paused, its network being cut
    DUMP = "dump"  # paused; images are written and sent
    RESTORE = "restore"  # paused; the target restores
    COMMIT = "commit"  # decided, durably: the container is the target's
    HYDRATE = "hydrate"  # the source's copy is gone; only its files are still needed
    DETACH = "detach"  # nothing is missing on the target; verifying, releasing
    KEEP = "keep"  # the target needs this host no more; its copy is kept: as long as asked, or while it comes back
    DONE = "done"
    RETURNED = "returned"  # the container is here again, by a later migration; nothing of this one is left
    ROLLBACK = "rollback"  # given up before commit: the target is told, then the source resumes
    ROLLED_BACK = "rolled-back"  # the source's copy runs again


class Step(StrEnum):
    """What moves the source on."""

    PREPARED = "prepared"
    FROZEN = "frozen"
    DUMPED = "dumped"
    DECIDED = "decided"  # the target holds a restored copy, and the decision is on disk
    OPENED = "opened"  # the target runs, the source's copy is gone
    HYDRATED = "hydrated"
    KEPT = "kept"
    RELEASED = "released"
    CAME_BACK = "came-back"
    GIVE_UP = "give-up"
    RESUMED = "resumed"


class Copy(StrEnum):
    """What there is of the container on one side."""

    NONE = "none"
    RUNS = "runs"
    HELD = "held"  # exists, frozen, network cut: can be made to run, or be destroyed
    ELSEWHERE = "elsewhere"  # a later migration has moved it on, or back, and its tables answer for it


class Hold(StrEnum):
    """Where a migration stands on the target."""

    ABSENT = "absent"
    PREPARED = "prepared"  # disk mounted, network built and closed
    RESTORING = "restoring"  # the runtime is at work; whatever appears is frozen before anyone hears of it
    HELD = "held"  # restored, frozen, network cut: it waits for the word, as long as it takes
    OPEN = "open"  # it runs, and is the only one
    DETACHED = "detached"
    LEFT = "left"  # it has moved on, and what it needed of this host is gone
    DISCARDED = "discarded"  # aborted; nothing of it is left, and late messages find it closed


class Word(StrEnum):
    """What moves the target on; all but RESTORED and LEAVE are messages of the source."""

    PREPARE = "prepare"
    RESTORE = "restore"
    RESTORED = "restored"
    COMMIT = "commit"
    DETACH = "detach"
    LEAVE = "leave"
    ABORT = "abort"


class Outcome(StrEnum):
    """What a source answers to a target that asks for the decision."""

    UNDECIDED = "undecided"  # or unknown: a target then goes on holding, for it may be the only copy
    COMMITTED = "committed"
    ROLLED_BACK = "rolled-back"


SOURCE: Final[Mapping[tuple[Phase, Step], Phase]] = {
    (Phase.PREPARE, Step.PREPARED): Phase.FREEZE,
    (Phase.FREEZE, Step.FROZEN): Phase.DUMP,
    (Phase.DUMP, Step.DUMPED): Phase.RESTORE,
    (Phase.RESTORE, Step.DECIDED): Phase.COMMIT,
    (Phase.COMMIT, Step.OPENED): Phase.HYDRATE,
    (Phase.HYDRATE, Step.HYDRATED): Phase.DETACH,
    (Phase.DETACH, Step.RELEASED): Phase.DONE,
    (Phase.DETACH, Step.KEPT): Phase.KEEP,
    (Phase.DETACH, Step.CAME_BACK): Phase.RETURNED,
    (Phase.KEEP, Step.RELEASED): Phase.DONE,
    (Phase.KEEP, Step.CAME_BACK): Phase.RETURNED,
    (Phase.PREPARE, Step.GIVE_UP): Phase.ROLLBACK,
    (Phase.FREEZE, Step.GIVE_UP): Phase.ROLLBACK,
    (Phase.DUMP, Step.GIVE_UP): Phase.ROLLBACK,
    (Phase.RESTORE, Step.GIVE_UP): Phase.ROLLBACK,
    (Phase.ROLLBACK, Step.RESUMED): Phase.ROLLED_BACK,
}

TARGET: Final[Mapping[tuple[Hold, Word], Hold]] = {
    (Hold.ABSENT, Word.PREPARE): Hold.PREPARED,
    (Hold.PREPARED, Word.RESTORE): Hold.RESTORING,
    (Hold.RESTORING, Word.RESTORED): Hold.HELD,
    (Hold.HELD, Word.COMMIT): Hold.OPEN,
    (Hold.OPEN, Word.COMMIT): Hold.OPEN,  # repeated, because its answer was lost
    (Hold.OPEN, Word.DETACH): Hold.DETACHED,
    (Hold.DETACHED, Word.COMMIT): Hold.DETACHED,
    (Hold.DETACHED, Word.DETACH): Hold.DETACHED,
    (Hold.OPEN, Word.LEAVE): Hold.LEFT,  # before its disk was complete: the next host has all of it
    (Hold.DETACHED, Word.LEAVE): Hold.LEFT,
    (Hold.LEFT, Word.LEAVE): Hold.LEFT,
    (Hold.LEFT, Word.COMMIT): Hold.LEFT,
    (Hold.LEFT, Word.DETACH): Hold.LEFT,
    (Hold.ABSENT, Word.ABORT): Hold.DISCARDED,  # it overtook "prepare", which is then refused
    (Hold.PREPARED, Word.ABORT): Hold.DISCARDED,
    (Hold.RESTORING, Word.ABORT): Hold.DISCARDED,
    (Hold.HELD, Word.ABORT): Hold.DISCARDED,
    (Hold.DISCARDED, Word.ABORT): Hold.DISCARDED,
}

# What there is of the source's copy. In FREEZE it may still run: what matters is that it may.
SOURCE_COPY: Final[Mapping[Phase, Copy]] = {
    Phase.PREPARE: Copy.RUNS,
    Phase.FREEZE: Copy.RUNS,
    Phase.DUMP: Copy.HELD,
    Phase.RESTORE: Copy.HELD,
    Phase.COMMIT: Copy.HELD,  # until it is destroyed; it never runs again
    Phase.HYDRATE: Copy.NONE,
    Phase.DETACH: Copy.NONE,
    Phase.KEEP: Copy.NONE,
    Phase.DONE: Copy.NONE,
    Phase.RETURNED: Copy.ELSEWHERE,
    Phase.ROLLBACK: Copy.HELD,
    Phase.ROLLED_BACK: Copy.RUNS,
}

TARGET_COPY: Final[Mapping[Hold, Copy]] = {
    Hold.ABSENT: Copy.NONE,
    Hold.PREPARED: Copy.NONE,
    Hold.RESTORING: Copy.HELD,
    Hold.HELD: Copy.HELD,
    Hold.OPEN: Copy.RUNS,
    Hold.DETACHED: Copy.RUNS,
    Hold.LEFT: Copy.ELSEWHERE,
    Hold.DISCARDED: Copy.NONE,
}

# Which messages a source in this state may send (again); the driver and the exploration both obey it.
MAY_SEND: Final[Mapping[Phase, frozenset[Word]]] = {
    Phase.PREPARE: frozenset({Word.PREPARE}),
    Phase.FREEZE: frozenset(),
    Phase.DUMP: frozenset(),
    Phase.RESTORE: frozenset({Word.RESTORE}),
    Phase.COMMIT: frozenset({Word.COMMIT}),
    Phase.HYDRATE: frozenset({Word.COMMIT}),
    Phase.DETACH: frozenset({Word.DETACH}),
    Phase.KEEP: frozenset(),
    Phase.DONE: frozenset(),
    Phase.RETURNED: frozenset(),
    Phase.ROLLBACK: frozenset({Word.ABORT}),
    Phase.ROLLED_BACK: frozenset({Word.ABORT}),
}

# Once here, the target has heard "commit": the copy was let go, and is never taken back.
OPENED: Final = frozenset({Hold.OPEN, Hold.DETACHED, Hold.LEFT})
# The target needs nothing of the source any more.
RELEASED: Final = frozenset({Hold.DETACHED, Hold.LEFT})
DECIDED: Final = frozenset({Phase.COMMIT, Phase.HYDRATE, Phase.DETACH, Phase.KEEP, Phase.DONE, Phase.RETURNED})
ENDED: Final = frozenset({Phase.DONE, Phase.RETURNED, Phase.ROLLED_BACK})
# The target runs, and this host still has its copy of the data.
REVERSIBLE: Final = frozenset({Phase.HYDRATE, Phase.DETACH, Phase.KEEP})
# Of a migration to this host: its container lives here.
HOME: Final = frozenset({Hold.OPEN, Hold.DETACHED})
# Of a migration to this host: it may come yet, or has come and its disk is not whole.
COMING: Final = frozenset({Hold.PREPARED, Hold.RESTORING, Hold.HELD, Hold.OPEN})

_State = TypeVar("_State", Phase, Hold)
_Input = TypeVar("_Input", Step, Word)


def _step(table: Mapping[tuple[_State, _Input], _State], state: _State, what: _Input) -> _State:
    try:
        return table[state, what]
    except KeyError:
        raise Refused(f"'{what}' does not fit a migration that is '{state}'") from None


def source_step(state: Phase, what: Step) -> Phase:
    """The source's next state; raises `Refused` where the table has none."""
    return _step(SOURCE, state, what)


def target_step(state: Hold, what: Word) -> Hold:
    """The target's next state; raises `Refused` where the table has none."""
    return _step(TARGET, state, what)


def outcome(decisions: Collection[str]) -> Outcome:
    """What the source's journaled DECISIONS amount to."""
    if DECIDED.intersection(decisions):
        return Outcome.COMMITTED
    if Phase.ROLLBACK in decisions or Phase.ROLLED_BACK in decisions:
        return Outcome.ROLLED_BACK
    return Outcome.UNDECIDED
