"""What can be done about a migration that stands where it stands: for `migrator status`, and for who wants to abort.

Pure: states in, a line out. It must not know how a migration came there.
"""

from __future__ import annotations

from migrator.core.errors import MigratorError, Refused, Stranded, TooLate, Unfinished
from migrator.core.phases import DECIDED, REVERSIBLE, Hold, Phase


def advise(phase: str, migration: str, container: str, peer: str) -> str:
    """What happens next by itself, and the command for whoever cannot wait; empty where it has ended well."""
    back = f"bring it back with 'migrator migrate {container} THIS-HOST' on {peer}"
    undo = f"'migrator rollback {migration}' brings it back"
    match phase:
        case Phase.PREPARE | Phase.FREEZE | Phase.DUMP | Phase.RESTORE:
            return f"'migrator abort {migration}' lets the container go on here"
        case Phase.ROLLBACK:
            return "the container goes on here by itself, also after a restart of the agent"
        case Phase.COMMIT:
            return (
                f"it is decided: the container goes on on {peer} as soon as the agent there answers, so start that; "
                "memory that follows comes from here, so keep this host up"
            )
        case Phase.HYDRATE | Phase.DETACH:
            return f"the container runs on {peer}, and its disk follows by itself: keep this host up; {undo}"
        case Phase.KEEP:
            return f"the container runs on {peer}, and this host keeps its copy; {undo}"
        case Phase.DONE:
            return f"the container runs on {peer}; {back}"
        case Hold.PREPARED | Hold.RESTORING | Hold.HELD:
            return f"the container is {peer}'s until that has decided: start the agent there, or reach it"
        case Hold.OPEN:
            return f"the container runs here, and part of its disk is on {peer}: keep that up"
        case _:
            return ""


def too_late(phase: Phase, migration: str, container: str, peer: str) -> TooLate:
    """Why a migration cannot be aborted, and what can be done instead."""
    assert phase in DECIDED
    return TooLate(
        f"migration {migration} is in '{phase}': container {container} is the target's",
        remedy=advise(phase, migration, container, peer),
    )


def not_picked_up(phase: Phase, migration: str, container: str, why: MigratorError) -> MigratorError:
    """What is so of one that an agent which was started left alone, and WHY it did."""
    told = f"migration {migration} could not be picked up when the agent was started: {why.message}"
    remedy = f"{why.remedy or 'put that right'}, then start this host's agent again"
    if phase in DECIDED:
        return Unfinished(f"{told}; container {container} is the target's", remedy=f"{remedy}: it goes on then")
    if phase is Phase.PREPARE:
        return Refused(f"{told}; container {container} runs on this host", remedy=f"{remedy}: it goes back then")
    still = "stands still" if phase in (Phase.DUMP, Phase.RESTORE) else "may stand still"
    return Stranded(f"{told}; container {container} {still}", remedy=f"{remedy}: it goes on here then")


def no_way_back(phase: Phase, migration: str, container: str, peer: str) -> MigratorError:
    """Why a container cannot be brought back by `migrator rollback`, and what can be done instead."""
    assert phase not in REVERSIBLE
    match phase:
        case Phase.DONE:
            return TooLate(
                f"migration {migration} is over, and this host keeps nothing of container {container} for it",
                remedy=advise(phase, migration, container, peer),
            )
        case Phase.RETURNED | Phase.ROLLBACK | Phase.ROLLED_BACK:
            return Refused(f"migration {migration} is in '{phase}': container {container} is this host's already")
        case Phase.COMMIT:
            return Refused(
                f"migration {migration} is being handed over: container {container} is not open on {peer} yet",
                remedy="try again in a moment",
            )
        case _:
            return Refused(
                f"migration {migration} is not committed: container {container} is this host's",
                remedy=f"give it up with 'migrator abort {migration}'",
            )
