"""The matrix as Markdown.

Pure: outcomes in, text out. It must not know how they were found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.faults.injuries import INJURIES
from benchmarks.faults.points import POINTS, SOURCE
from benchmarks.faults.scene import ANSWER_SECONDS, SETTLE_SECONDS, Outcome

_HEAD: Final = """\
# The fault matrix

Written by `make faults`, which breaks everything named below, at every step of every phase, on real hosts: a redis
that counts for a client over one TCP connection is migrated from host to host and back, one migration a cell. Of each
cell is checked

- that one copy acts, and its client has answers, at most {answer:.0f} s after the injury was over (an agent was started
  again, the link came back, there was space; all other injuries are over at once), and that nothing is left to do
  {settle:.0f} s after it, with no operator's help;
- that no reply to the client was lost, repeated or rolled back, and that its connection lived;
- that two copies never acted at once: both sides' freezers are looked at every few milliseconds, and a witness in the
  container writes to its disk a hundred times a second, so that what acted in between would be seen by what it wrote;
- that nothing of the migration is left on the host that does not run the container: processes, mounts, namespaces,
  files.

**moved**: the container went on on the target. **stayed**: it went on on the source, and the target is clean. The
figure is the time in seconds from the end of the injury until the client had answers again. An empty cell makes no
sense (there is nothing to break yet, or any more); one with a dash was not walked.
"""


def document(outcomes: Sequence[Outcome], seconds: float) -> str:
    """All of it."""
    return "\n".join(_lines(outcomes, seconds)) + "\n"


def _lines(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    by_cell = {(each.point, each.injury): each for each in outcomes}
    injuries = [each for each in INJURIES if any(outcome.injury == each.name for outcome in outcomes)]
    yield _HEAD.format(answer=ANSWER_SECONDS, settle=SETTLE_SECONDS)
    yield "| injury | what is done |"
    yield "|---|---|"
    yield from (f"| {each.name} | {each.what} |" for each in injuries)
    yield ""
    yield "| phase | before | at the | " + " | ".join(each.name for each in injuries) + " |"
    yield "|---|---|---|" + "---|" * len(injuries)
    for point in POINTS:
        side = "source" if point.side == SOURCE else "target"
        row = [_cell(by_cell.get((point.name, each.name)), each.applies(point)) for each in injuries]
        yield f"| {point.phase} | {point.name} | {side} | " + " | ".join(row) + " |"
    passed = [each for each in outcomes if each.passed]
    whole = sum(each.applies(point) for point in POINTS for each in INJURIES)
    yield ""
    yield (
        f"{len(passed)} of the {len(outcomes)} cells that were walked pass, of {whole}; the walk took "
        f"{seconds / 60:.0f} minutes."
    )
    if passed:
        yield f"Longest until the client had answers: {max(each.answered for each in passed):.1f} s."
        yield f"Longest until nothing was left to do: {max(each.settled for each in passed):.1f} s."
    for each in outcomes:
        if not each.passed:
            yield f"- **{each.injury} at {each.point}**: {'; '.join(each.problems)}"


def _cell(outcome: Outcome | None, applies: bool) -> str:
    if outcome is None:
        return "-" if applies else ""
    return f"{outcome.ended} {outcome.answered:.1f}" if outcome.passed else "**failed**"
