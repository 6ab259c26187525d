"""What became of each of several containers, told from the events of their migrations.

Pure: dictionaries in, dictionaries out, as they travel. It must not know why several were moved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]


def nowhere(container: str) -> dict[str, Any]:
    """The end of a container that no migration was begun for."""
    facts = {"migration": "", "joined": False, "target": "", "downtime_s": None}
    return {"event": "container", "container": container, "outcome": "refused", **facts}


def begun(container: str, migration: str, *, joined: bool = False) -> dict[str, Any]:
    """The end of one that MIGRATION moves, as long as nothing better is known."""
    return {**nowhere(container), "outcome": "failed", "migration": migration, "joined": joined}


def after(end: Event, event: Event) -> dict[str, Any]:
    """END, once its migration has told EVENT too."""
    match event["event"]:
        case "started":
            return {**end, "target": event["target"]}
        case "result":
            result = event["result"]
            return {**end, "outcome": "moved", "downtime_s": result["timeline"]["downtime_s"], "result": result}
        case "error":
            return {**end, **{key: event[key] for key in ("error", "kind", "remedy", "log", "status")}}
        case _:
            return dict(end)


def brief(ends: Sequence[Event]) -> list[dict[str, Any]]:
    """Of all, what a report shows."""
    return [{key: value for key, value in end.items() if key not in ("event", "result")} for end in ends]
