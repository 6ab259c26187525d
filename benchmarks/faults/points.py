"""The steps of a migration at which something can be made to break: where the agents can be stopped.

An agent for this purpose (`agent`) is the product's own, with a gate before each of these calls of its adapters. It
must not know what is broken there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SOURCE, TARGET = "source", "target"


@dataclass(frozen=True, slots=True)
class Point:
    """Before a call of an adapter: METHOD of CLASS in MODULE, or before one of CRIU's own stages (no module)."""

    name: str
    side: str
    phase: str
    module: str = ""
    method: str = ""
    first: str = ""  # of its arguments, where only some calls count
    committed: bool = False  # whether the decision is on disk then

    @property
    def tool(self) -> bool:
        """Whether CRIU and the runtime are at work then."""
        return not self.module


def _criu(stage: str, side: str, phase: str) -> Point:
    return Point(f"criu {stage}", side, phase)


POINTS: Final = (
    Point("export", SOURCE, "prepare", "disk", "VoyfsDisk.export"),
    Point("network", TARGET, "prepare", "network", "VethNetwork.build"),
    Point("mount", TARGET, "prepare", "disk", "VoyfsDisk.mount"),
    Point("bundle", TARGET, "prepare", "runc", "OciRuntime.prepare_restore"),
    Point("prefetch", TARGET, "prepare", "mounted", "VoyfsMount.prefetch"),
    Point("pause", SOURCE, "freeze", "dumping", "RuntimeDump.pause"),
    Point("cut", SOURCE, "freeze", "veth", "VethSource.cut"),
    Point("dump", SOURCE, "dump", "dumping", "RuntimeDump.pieces"),
    Point("attract", TARGET, "dump", "veth", "VethTarget.attract"),
    Point("refresh", TARGET, "dump", "mounted", "VoyfsMount.refresh"),
    _criu("pre-dump", SOURCE, "dump"),
    _criu("post-dump", SOURCE, "dump"),
    Point("restore", TARGET, "restore", "restoring", "RuntimeRestore.restore"),
    _criu("pre-restore", TARGET, "restore"),
    _criu("post-restore", TARGET, "restore"),
    _criu("pre-resume", TARGET, "restore"),
    Point("held", TARGET, "restore", "journal", "FileRecord.write", "held"),
    Point("decide", SOURCE, "restore", "journal", "FileRecord.write", "commit"),
    Point("commit", SOURCE, "commit", "peer", "GrpcPeer.commit", committed=True),
    Point("open", TARGET, "commit", "veth", "VethTarget.open", committed=True),
    Point("release", TARGET, "commit", "restoring", "RuntimeRestore.release", committed=True),
    Point("opened", TARGET, "commit", "journal", "FileRecord.write", "open", committed=True),
    Point("destroy", SOURCE, "commit", "runc", "OciRuntime.destroy", committed=True),
    Point("unplug", SOURCE, "commit", "network", "VethNetwork.remove", committed=True),
    Point("hand over", SOURCE, "commit", "journal", "FileRecord.write", "hydrate", committed=True),
    Point("hydrate", TARGET, "hydrate", "mounted", "VoyfsMount.hydrate", committed=True),
    Point("verify", TARGET, "detach", "mounted", "VoyfsMount.verify", committed=True),
    Point("detach", TARGET, "detach", "mounted", "VoyfsMount.detach", committed=True),
    Point("leave", SOURCE, "detach", "holder", "Holder.leave", committed=True),
    Point("done", SOURCE, "detach", "journal", "FileRecord.write", "done", committed=True),
)
assert len({point.name for point in POINTS}) == len(POINTS), "each has its own name"
