"""What a migration tells while it happens, for any number of listeners that may come late.

It must not know what the events mean.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

# They come for as long as hydration, or an absence of the target, lasts: of a row of them, only the last is worth
# telling a latecomer.
TRANSIENT: Final = frozenset({"progress", "waiting"})


class Feed:
    """Events, oldest first, and whether there will be more."""

    def __init__(self) -> None:
        """Nothing yet."""
        self._events: list[Mapping[str, Any]] = []
        self._first = 0  # number of events dropped before those kept
        self._ended = False
        self._changed = threading.Condition()

    def publish(self, event: Mapping[str, Any]) -> None:
        """Tell all."""
        with self._changed:
            if self._events and event["event"] in TRANSIENT and self._events[-1]["event"] in TRANSIENT:
                self._events[-1] = event
                self._version += 1
            else:
                self._events.append(event)
            self._changed.notify_all()

    def end(self) -> None:
        """There will be no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    _version = 0

    def follow(self) -> Iterator[Mapping[str, Any]]:
        """All events so far, then each as it comes, until the end."""
        position, version = 0, 0
        while True:
            with self._changed:
                while position == len(self._events) and version == self._version and not self._ended:
                    self._changed.wait()
                if position == len(self._events) and version == self._version:
                    return
                if position == len(self._events):
                    position -= 1
                event = self._events[position]
                version = self._version
            position += 1
            yield event

    @property
    def last(self) -> Mapping[str, Any]:
        """The last event; empty if there was none."""
        with self._changed:
            return self._events[-1] if self._events else {}
