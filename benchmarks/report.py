"""What a run has found out: checks that hold or not, figures, and how both are shown.

It must not know how anything was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """A number of bytes for people."""
    for unit in _UNITS:
        if count < 1024 or unit == _UNITS[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def milliseconds(count: float) -> str:
    """A duration given in milliseconds."""
    return f"{count:.0f} ms"


@dataclass(frozen=True)
class Check:
    """One thing that must hold."""

    name: str
    holds: bool
    detail: str


@dataclass
class Report:
    """Checks and figures in the order in which they were found; `facts` are for machines alone."""

    title: str
    checks: list[Check] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def check(self, name: str, holds: bool, detail: str) -> None:
        """Add a check."""
        self.checks.append(Check(name, holds, detail))

    def figure(self, name: str, value: str) -> None:
        """Add a figure for people."""
        self.figures.append((name, value))

    @property
    def ok(self) -> bool:
        """Whether all of it holds."""
        return bool(self.checks) and all(check.holds for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks], **self.facts}

    def show(self, console: Console) -> None:
        """Print the figures, then the checks."""
        table = Table(title=self.title, title_justify="left", show_header=False)
        for name, value in self.figures:
            table.add_row(name, value)
        table.add_section()
        for check in self.checks:
            mark = Text("ok  ", "green") if check.holds else Text("FAIL", "bold red")
            table.add_row(check.name, Text.assemble(mark, " ", check.detail))
        console.print(table)
