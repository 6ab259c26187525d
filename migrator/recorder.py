"""Takes the time of a migration as it happens, and tells whoever listens.

It must not know what the phases do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from migrator.core.timeline import SOURCE, Measured, Span, Timeline
from migrator.ports import Clock, Publish, Report


class Counter:
    """Bytes moved by a phase or step while it runs; only its own thread may add."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.bytes = 0


class Recorder:
    """Fills a timeline and publishes events. Safe to use from several threads."""

    def __init__(self, migration: str, clock: Clock, publish: Publish) -> None:
        """The migration starts now."""
        self.timeline = Timeline()
        self._migration = migration
        self._clock = clock
        self._publish = publish
        self._lock = threading.Lock()
        self._zero = clock.now()

    def now(self) -> float:
        """Seconds since the start."""
        return self._clock.now() - self._zero

    def tell(self, event: str, **facts: Any) -> None:
        """Publish an event. Never raises: who cannot be told must not keep a container from going back."""
        message: Mapping[str, Any] = {
            "event": event,
            "migration": self._migration,
            "time": self._clock.wall(),
            "at_s": self.now(),
            **facts,
        }
        with suppress(Exception):
            self._publish(message)

    @contextmanager
    def phase(self, name: str) -> Iterator[Counter]:
        """Time a phase; one that fails is in the timeline too."""
        counter, start = Counter(), self.now()
        self.tell("phase", phase=name, state="begin")
        try:
            yield counter
        finally:
            seconds = self.now() - start
            self._add(Span(name, "", SOURCE, start, seconds, counter.bytes))
            self.tell("phase", phase=name, state="end", seconds=seconds, bytes=counter.bytes)

    @contextmanager
    def step(self, phase: str, name: str) -> Iterator[Counter]:
        """Time a step of a phase; nothing is published, so that it costs next to nothing."""
        counter, start = Counter(), self.now()
        try:
            yield counter
        finally:
            self._add(Span(phase, name, SOURCE, start, self.now() - start, counter.bytes))

    def remote(self, phase: str, called: float, report: Report) -> None:
        """Add what the target measured in a call that was made at CALLED."""
        with self._lock:
            self.timeline.add_remote(phase, called, report.steps)

    def _add(self, span: Span) -> None:
        with self._lock:
            self.timeline.add(span)


class Steps:
    """Measures the steps of one call."""

    def __init__(self, clock: Clock) -> None:
        """The call arrived now."""
        self._clock = clock
        self._zero = clock.now()
        self.measured: list[Measured] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Measure a step."""
        start = self._clock.now()
        try:
            yield
        finally:
            self.measured.append(Measured(name, start - self._zero, self._clock.now() - start))

    def report(self, since: float | None = None, count: int = 0, answered: float | None = None) -> Report:
        """What was measured; SINCE and ANSWERED are times that the report tells the ages of."""
        now = self._clock.now()
        age = None if answered is None else now - answered
        return Report(tuple(self.measured), 0.0 if since is None else now - since, count, age)
