"""Follows the migrations of a group, as one stream.

It must not know how they are decided together.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from migrator.core.report import Event, after, begun, brief
from migrator.migrations import Migrations


def follow(migrations: Migrations, containers: Sequence[str], names: Sequence[str]) -> Iterator[Event]:
    """What happens to CONTAINERS, which the migrations NAMES move; the end of each, and then all ends."""
    told: queue.SimpleQueue[Event] = queue.SimpleQueue()

    def pass_on(container: str, name: str) -> None:
        end = begun(container, name)
        try:
            for event in migrations.follow(name):
                end = after(end, event)
                if event["event"] not in ("result", "error"):
                    told.put({**event, "container": container})
        finally:
            told.put(end)

    for pair in zip(containers, names, strict=True):
        threading.Thread(target=pass_on, args=pair, name=f"following-{pair[1]}", daemon=True).start()
    yield {"event": "group", "containers": list(containers), "migrations": list(names)}
    ends: list[Event] = []
    while len(ends) < len(names):
        event = told.get()
        yield event
        if event["event"] == "container":
            ends.append(event)
    yield {"event": "together", "containers": brief(ends)}
