"""Where the time of a migration went: phases, the steps in them, bytes, and the downtime.

Pure: times come in as seconds of one clock, whose zero is the migration's start. It must not know who measures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

# A step below this is in nobody's way; those in the freeze are few, so the table stays short.
STEP_SECONDS: Final = 0.005

SOURCE, TARGET = "source", "target"


@dataclass(frozen=True, slots=True)
class Span:
    """One phase (`name` is empty) or one step of a phase; `start` in seconds since the migration began."""

    phase: str
    name: str
    side: str
    start: float
    seconds: float
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """A step as the other side measured it: `offset` in seconds since its call arrived."""

    name: str
    offset: float
    seconds: float
    bytes: int = 0


@dataclass(slots=True)
class Timeline:
    """Grows by spans; `paused` and `opened` bound the downtime, in seconds since the start, once known.

    `answered`: when the container first sent data again. On a busy connection, its client waited from `paused` to then.
    """

    spans: list[Span] = field(default_factory=list)
    paused: float | None = None
    opened: float | None = None
    answered: float | None = None

    def add(self, span: Span) -> None:
        """Append a span."""
        self.spans.append(span)

    def add_remote(self, phase: str, called: float, steps: Sequence[Measured]) -> None:
        """Append what the target measured within a call that was made at CALLED."""
        for step in steps:
            self.add(Span(phase, step.name, TARGET, called + step.offset, step.seconds, step.bytes))

    @property
    def downtime(self) -> float | None:
        """Seconds from the pause to the open network; None unless both have happened."""
        if self.paused is None or self.opened is None:
            return None
        return self.opened - self.paused

    @property
    def gap(self) -> float | None:
        """Seconds from the pause to the first data that the container sent again; None where none was seen."""
        if self.paused is None or self.answered is None:
            return None
        return self.answered - self.paused

    @property
    def phases(self) -> list[Span]:
        """The phases, in the order of their start."""
        return sorted((span for span in self.spans if not span.name), key=lambda span: span.start)

    def steps(self, phase: str, shortest: float = STEP_SECONDS) -> list[Span]:
        """The steps of a phase that took at least SHORTEST seconds, in the order of their start."""
        found = (span for span in self.spans if span.phase == phase and span.name and span.seconds >= shortest)
        return sorted(found, key=lambda span: span.start)

    def to_json(self) -> dict[str, Any]:
        """As JSON: seconds and bytes."""
        return {
            "downtime_s": self.downtime,
            "gap_s": self.gap,
            "paused_s": self.paused,
            "opened_s": self.opened,
            "phases": [
                {
                    "phase": phase.phase,
                    "start_s": phase.start,
                    "seconds": phase.seconds,
                    "bytes": phase.bytes,
                    "steps": [
                        {key: value for key, value in asdict(step).items() if key != "phase"}
                        for step in self.steps(phase.phase)
                    ],
                }
                for phase in self.phases
            ],
        }


def rows(timeline: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """The table of `Timeline.to_json` for people: phase or step, start, duration, bytes."""
    table = []
    for phase in timeline["phases"]:
        table.append((phase["phase"], *_cells(phase["start_s"], phase["seconds"], phase["bytes"])))
        for step in phase["steps"]:
            name = f"  {step['name']} ({step['side']})"
            table.append((name, *_cells(step["start"], step["seconds"], step["bytes"])))
    return table


def _cells(start: float, seconds: float, count: int) -> tuple[str, str, str]:
    return f"{start:.3f} s", milliseconds(seconds), human_bytes(count) if count else ""


def milliseconds(seconds: float) -> str:
    """A duration: milliseconds below ten seconds, seconds above."""
    return f"{seconds * 1000:.0f} ms" if seconds < 10 else f"{seconds:.1f} s"


def human_bytes(count: float) -> str:
    """A number of bytes in binary units, to three digits or so."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
