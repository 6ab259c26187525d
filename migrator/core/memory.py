"""How memory moves: before the freeze, during it, or after it; which way is open, and which one is best.

Pure. Stop-copy moves it while the container stands still. Pre-copy moves it before, in rounds, while the container
goes on changing it. Post-copy moves it after: the container runs on the target, and a page that is not there yet is
fetched when it is touched, while the rest is pushed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from migrator.core.errors import NotReady
from migrator.core.prediction import Link, Load, memory_rate
from migrator.core.timeline import human_bytes


class Memory(StrEnum):
    """What the user may ask for."""

    STOP_COPY = "stop-copy"
    PRE_COPY = "pre-copy"
    POST_COPY = "post-copy"
    AUTO = "auto"


# CRIU keeps the pages in pipes until they are fetched, and makes one of this size to send from (its page-pipe.c).
PIPE_BYTES: Final = 4 << 20

# `auto` takes the first way by which memory alone takes no longer than this while the container stands still, or else
# the one that leaves least for then. Until all its pages are over, a post-copied container depends on two hosts, and
# that is not worth less.
STILL_SECONDS: Final = 0.5

# Rounds of pre-copy end when one more would not pay: the last one took a tenth of a second, or it moved more than this
# share of the one before it (memory is changed as fast as it is sent), or there were so many.
LAST_SECONDS: Final = 0.1
GAIN: Final = 0.7
ROUNDS: Final = 8


@dataclass(frozen=True, slots=True)
class Means:
    """What of both hosts decides which ways are open."""

    source: Collection[str]  # features, as core.host names them
    target: Collection[str]
    pipe_bytes: int  # the largest pipe that the source's CRIU may make
    lazily: bool = True  # whether the source's runtime can leave pages to be fetched


def problem(mode: Memory, means: Means) -> tuple[str, str]:
    """Why memory cannot move that way, and what to do about it; empty if it can."""
    if mode is Memory.PRE_COPY and "mem_dirty_track" not in means.source:
        return (
            "the source's kernel does not track which memory changes (MEM_SOFT_DIRTY), which pre-copy needs",
            "use --memory post-copy or stop-copy, or a kernel built with CONFIG_MEM_SOFT_DIRTY",
        )
    if mode is Memory.POST_COPY and not means.lazily:
        return (
            "the source's runtime cannot leave pages to be fetched (it has no --lazy-pages), which post-copy needs",
            "use --memory stop-copy, or a runtime that can, such as runc",
        )
    if mode is Memory.POST_COPY and "uffd-noncoop" not in means.target:
        return (
            "the target's kernel does not hand page faults to CRIU (userfaultfd), which post-copy needs",
            "use --memory stop-copy, or allow userfaultfd there",
        )
    if mode is Memory.POST_COPY and means.pipe_bytes < PIPE_BYTES:
        return (
            f"the source allows pipes of {human_bytes(means.pipe_bytes)}; post-copy needs {human_bytes(PIPE_BYTES)}",
            f"sysctl -w fs.pipe-max-size={PIPE_BYTES} there, or use --memory stop-copy",
        )
    return "", ""


def still_bytes(mode: Memory, link: Link, load: Load) -> float:
    """Bytes of memory that move while the container stands still."""
    rate = memory_rate(link)
    if mode is Memory.POST_COPY:
        return load.shared_bytes  # which CRIU does not fetch on demand
    if mode is Memory.PRE_COPY:
        # What changes while the last round is sent: a short one, unless no round gets ahead of the changes.
        dirty = rate * GAIN / 2 if load.dirty_rate is None else load.dirty_rate
        last = LAST_SECONDS if dirty <= rate * GAIN else load.memory_bytes / rate
        return min(load.memory_bytes, dirty * last)
    return load.memory_bytes


def choose(asked: Memory, means: Means, link: Link, load: Load) -> Memory:
    """The way to go; raises NotReady where the one that was ASKED for is closed."""
    if asked is not Memory.AUTO:
        what, remedy = problem(asked, means)
        if what:
            raise NotReady(what, remedy=remedy)
        return asked
    ways = [mode for mode in (Memory.STOP_COPY, Memory.PRE_COPY, Memory.POST_COPY) if not problem(mode, means)[0]]
    still = {mode: still_bytes(mode, link, load) for mode in ways}
    short = [mode for mode in ways if still[mode] / memory_rate(link) <= STILL_SECONDS]
    return short[0] if short else min(ways, key=still.__getitem__)


def another_round(rounds: Sequence[tuple[int, float]]) -> bool:
    """Whether to move memory once more before the freeze; ROUNDS: bytes and seconds of each so far."""
    if not rounds:
        return True
    count, seconds = rounds[-1]
    if len(rounds) >= ROUNDS or seconds <= LAST_SECONDS:
        return False
    return len(rounds) == 1 or count <= GAIN * rounds[-2][0]
