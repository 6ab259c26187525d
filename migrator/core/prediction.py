"""What a migration will cost, told before it is made from what was measured; and, afterwards, how far off that was.

Pure. The model is a sum: what CRIU and the runtime take whatever the container holds, the words between the hosts,
and the bytes at the rate of whatever is slowest on their way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# Dump, restore and commit of a small redis on a small machine took 0.33 to 0.45 s in many runs; little of it depends
# on the number of processes or descriptors.
FIXED_SECONDS: Final = 0.4
WORDS: Final = 5  # round trips between pause and open network
# Bytes of memory from page to page over a link that is no bottleneck: read by CRIU, written, sent, checked, stored.
MEMORY_RATE: Final = 250e6
# Of files in tmpfs mounts, which CRIU puts through gzip, and takes out of it on the target.
TMPFS_RATE: Final = 30e6
# A disk that hydrates over such a link, and what each file costs besides its bytes.
DISK_RATE: Final = 200e6
FILE_SECONDS: Final = 0.0004


@dataclass(frozen=True, slots=True)
class Link:
    """The way from the source's agent to the target's: bytes a second, and seconds for a word there and back."""

    rate: float
    round_trip: float


@dataclass(frozen=True, slots=True)
class Load:
    """What is to be moved. `dirty_rate` is an upper bound: what was touched may not have been changed."""

    memory_bytes: int
    disk_bytes: int
    disk_files: int
    dirty_rate: float | None = None  # bytes of memory changed a second; None: not known
    tmpfs_bytes: int = 0
    shared_bytes: int = 0  # of memory_bytes, what processes share


@dataclass(frozen=True, slots=True)
class Prediction:
    """Seconds, and what they were told from."""

    downtime: float
    hydration: float
    link: Link
    load: Load

    def to_json(self) -> dict[str, Any]:
        """As JSON: seconds, bytes, bytes a second."""
        return {
            "downtime_s": self.downtime,
            "hydration_s": self.hydration,
            "link_rate": self.link.rate,
            "round_trip_s": self.link.round_trip,
            "memory_bytes": self.load.memory_bytes,
            "dirty_rate": self.load.dirty_rate,
            "tmpfs_bytes": self.load.tmpfs_bytes,
            "disk_bytes": self.load.disk_bytes,
            "disk_files": self.load.disk_files,
        }


def memory_rate(link: Link) -> float:
    """Bytes a second from a page of the source to one of the target."""
    return min(link.rate, MEMORY_RATE)


def predict(link: Link, load: Load, still_bytes: float) -> Prediction:
    """STILL_BYTES: of the memory, what moves while the container stands still (`memory.still_bytes`)."""
    downtime = FIXED_SECONDS + WORDS * link.round_trip + still_bytes / memory_rate(link)
    downtime += load.tmpfs_bytes / min(link.rate, TMPFS_RATE)
    hydration = load.disk_bytes / min(link.rate, DISK_RATE) + load.disk_files * FILE_SECONDS
    return Prediction(downtime, hydration, link, load)


def outcome(predicted: Mapping[str, Any], timeline: Mapping[str, Any]) -> dict[str, Any]:
    """What was predicted beside what came of it (None: it did not happen), from a timeline as JSON."""
    took = {phase["phase"]: phase["seconds"] for phase in timeline["phases"]}
    return {
        **predicted,
        "actual_downtime_s": timeline["downtime_s"],
        "actual_hydration_s": took.get("hydrate"),
    }
