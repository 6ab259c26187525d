"""Which figures the agent shows to Prometheus: counted from what migrations tell, and taken when it is asked.

Those of migrations under way have the migration's ID as a label; they vanish with its end, so there are never many.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from voyfs.core.metrics import Family, Histogram

# Seconds that a container stood still: a small one takes some tenths, one with much memory and a slow link, minutes.
STILL_BOUNDS: Final = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0, 120.0)


class Tally:
    """Takes events in; safe to use from several threads."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._lock = threading.Lock()
        self._phases: dict[str, str] = {}
        self._progress: dict[str, Mapping[str, Any]] = {}
        self._ended: Counter[str] = Counter()
        self._image_bytes = 0
        self._downtime = Histogram(STILL_BOUNDS)
        self._gap = Histogram(STILL_BOUNDS)

    def publish(self, event: Mapping[str, Any]) -> None:
        """One event of a migration from this host."""
        migration = event["migration"]
        with self._lock:
            match event["event"]:
                case "phase" if event["state"] == "begin":
                    self._phases[migration] = str(event["phase"])
                    self._progress.pop(migration, None)
                case "phase" if event["phase"] == "dump":
                    self._image_bytes += event["bytes"]
                case "progress":
                    self._progress[migration] = event
                case "opened":
                    if event["downtime_s"] is not None:
                        self._downtime.observe(event["downtime_s"])
                    if event["gap_s"] is not None:
                        self._gap.observe(event["gap_s"])
                case "result":
                    self._end(migration, "moved")
                case "error":
                    self._end(migration, event["kind"])

    def _end(self, migration: str, outcome: str) -> None:
        self._ended[outcome] += 1
        self._phases.pop(migration, None)
        self._progress.pop(migration, None)

    def families(self, holds: Sequence[str]) -> list[Family]:
        """All figures now; HOLDS: of each migration towards this host, where it stands."""
        with self._lock:
            under_way = {_labels(migration=each, phase=phase): 1.0 for each, phase in self._phases.items()}
            figures = {
                key: {_labels(migration=each): float(event[key] or 0) for each, event in self._progress.items()}
                for key in ("bytes_present", "bytes_total", "rate")
            }
            left = {
                _labels(migration=each): float(event["eta"])
                for each, event in self._progress.items()
                if event["eta"] is not None
            }
            ended = {_labels(outcome=outcome): float(count) for outcome, count in self._ended.items()}
            held = {_labels(state=state): float(count) for state, count in Counter(holds).items()}
            return [
                Family("migrator_source_migration", "gauge", "Migrations from this host, by phase.", under_way),
                Family("migrator_target_migrations", "gauge", "Migrations to this host, by state.", held),
                Family("migrator_ended_total", "counter", "Migrations from this host that ended, by outcome.", ended),
                Family("migrator_image_bytes_total", "counter", "Images sent.", {(): float(self._image_bytes)}),
                Family("migrator_bytes_present", "gauge", "Moved in this phase.", figures["bytes_present"]),
                Family("migrator_bytes_expected", "gauge", "To be moved in it.", figures["bytes_total"]),
                Family("migrator_bytes_per_second", "gauge", "How fast.", figures["rate"]),
                Family("migrator_seconds_left", "gauge", "How long it takes yet, where that is known.", left),
                Family("migrator_downtime_seconds", "histogram", "Pause to open network.", histogram=self._downtime),
                Family("migrator_gap_seconds", "histogram", "Pause to first data sent again.", histogram=self._gap),
            ]


def _labels(**labels: str) -> tuple[tuple[str, str], ...]:
    return tuple(labels.items())
