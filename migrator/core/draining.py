"""In which order a host is emptied, and where each container goes.

Pure: facts in, an order out. It must not know how containers are found, nor how they move.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

PRIORITY: Final = "org.voyager.priority"  # the annotation of a config.json that says how urgent a container is


class First(StrEnum):
    """Who goes first."""

    URGENT = "urgent"  # of the highest priority; of equals, the smallest
    SMALLEST = "smallest"  # of the least memory, which stands still for the shortest time


@dataclass(frozen=True, slots=True)
class Leaving:
    """A container that is to go. `migration`: the one that moves it already; `why_not`: why it cannot be asked to."""

    name: str
    priority: int = 0
    memory_bytes: int = 0
    migration: str = ""
    why_not: Exception | None = None


def priority_of(config: Mapping[str, Any]) -> int:
    """As the container's annotation has it; 0 where there is none, or one that is no whole number."""
    try:
        return int(str((config.get("annotations") or {}).get(PRIORITY, 0)))
    except ValueError:
        return 0


def in_order(found: Collection[Leaving], first: First) -> list[Leaving]:
    """Those under way already, then the others as asked; of equals, by name, so that it is the same each time."""

    def key(each: Leaving) -> tuple[bool, int, int, str]:
        urgency = each.priority if first is First.URGENT else 0
        return (not each.migration, -urgency, each.memory_bytes, each.name)

    return sorted(found, key=key)


def by_load(targets: Sequence[str], loads: Mapping[str, int]) -> list[str]:
    """TARGETS, those first that the fewest are on their way to; of equals, as the user named them."""
    return sorted(targets, key=lambda target: loads.get(target, 0))
