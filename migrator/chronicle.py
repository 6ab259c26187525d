"""What a migration tells, as lines of the agent's log.

How far it is comes twice a second, and is worth a line only when nothing else was for a while. It must not know what
the events mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog

from migrator.core import limits

log = structlog.get_logger(__name__)


class Chronicle:
    """Of one migration."""

    def __init__(self, migration: str, container: str) -> None:
        """Each line names both."""
        self._names = {"migration": migration, "container": container}
        self._last = 0.0  # when a line was written, in seconds since the migration's start

    def publish(self, event: Mapping[str, Any]) -> None:
        """One event. Whatever becomes of the log, the migration goes on."""
        now = event.get("at_s", self._last)
        if event["event"] == "progress" and now - self._last < limits.SILENT_SECONDS:
            return
        self._last = now
        shown = {"what" if key == "event" else key: value for key, value in event.items()}
        with suppress(Exception):
            log.info("event", **{**shown, **self._names})
