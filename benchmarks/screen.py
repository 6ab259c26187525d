"""Shows a migration and its client side by side while they run.

On a terminal one small table is redrawn; elsewhere each phase is a line when it ends. It must not judge what it shows.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.table import Table

from benchmarks.lab.counter import CounterClient
from benchmarks.report import size
from benchmarks.stage import Event

PHASES: Final = ("prepare", "freeze", "dump", "restore", "commit", "hydrate", "detach")


class Screen:
    """One migration on CONSOLE."""

    def __init__(self, console: Console, client: CounterClient) -> None:
        """Use `live` around the events."""
        self._console = console
        self._client = client
        self._phases: dict[str, str] = {}
        self._lock = threading.Lock()

    @contextmanager
    def live(self) -> Iterator[None]:
        """Redraw within, if there is a terminal."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=5, get_renderable=self._table):
            yield

    def show(self, event: Event) -> None:
        """Take one event in."""
        line = self._line(event)
        if line and not self._console.is_terminal:
            self._console.print(f"  {line}", highlight=False)

    def _line(self, event: Event) -> str:
        match event:
            case {"event": "phase", "state": "begin", "phase": phase}:
                return self._set(phase, "...", say=False)
            case {"event": "phase", "state": "end", "phase": phase}:
                moved = f", {size(event['bytes'])}" if event.get("bytes") else ""
                return self._set(phase, f"{event['seconds'] * 1000:.0f} ms{moved}")
            case {"event": "progress", "phase": phase}:
                done, total = size(event["bytes_present"]), size(event["bytes_total"])
                return self._set(phase, f"{done} of {total}, {size(event['rate'])}/s", say=False)
            case {"event": "opened"}:
                return f"runs on the target, having stood still for {event['downtime_s'] * 1000:.0f} ms"
            case {"event": "waiting", "why": why}:
                return f"waiting: {why}"
            case {"event": "note", "text": text}:
                return str(text)
            case {"event": "failed", "phase": phase}:
                return f"failed in {phase}, going back"
        return ""

    def _set(self, phase: str, text: str, *, say: bool = True) -> str:
        with self._lock:
            self._phases[phase] = text
        return f"{phase}: {text}" if say else ""

    def _table(self) -> Table:
        table = Table(show_header=False, box=None, padding=(0, 2))
        with self._lock:
            phases = dict(self._phases)
        for phase in (*PHASES, *(name for name in phases if name not in PHASES)):
            table.add_row(phase, phases.get(phase, ""))
        seen = self._client.report
        table.add_row("client", f"{seen.last} counted, longest wait {seen.gap_ms:.0f} ms")
        return table
