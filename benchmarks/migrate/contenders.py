"""Those that are measured. Each moves a redis from `a` to `b` under its client's hands, in its own way.

The peers are given every advantage that a careful script has: the disk is copied while the container still runs, then
brought up to date while it does not; nothing is encrypted; the network is ready on the target beforehand.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from benchmarks.lab import floor
from benchmarks.lab.container import Container
from benchmarks.lab.node import LabError
from benchmarks.migrate.scene import Scene

REPLIES: Final = 200
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Moved:
    """Milliseconds and bytes. `gap` is what the client saw; `reported`, what Voyager's target says that it saw."""

    gap: float
    freeze: float
    total: float
    bytes: int
    connections: int
    reported: float | None = None


def voyager(mode: str) -> Callable[[Scene], Moved]:
    """`migrator migrate --memory MODE`."""

    def move(scene: Scene) -> Moved:
        scene.allow_pipes()
        scene.start_agents()
        with scene.count() as client:
            client.wait_replies(REPLIES)
            start = time.monotonic()
            *_, last = scene.migrate("--no-verify", "--memory", mode)
            total = time.monotonic() - start
            client.wait_replies(REPLIES)
            seen = client.stop()
        if last["event"] != "result":
            raise LabError(f"the migration failed: {last.get('error')}\n{scene.log_of(scene.b)}")
        if not seen.unbroken:
            raise LabError(f"the client was disturbed: {seen.errors}")
        result = last["result"]
        timeline = result["timeline"]
        disk = next(phase["bytes"] for phase in timeline["phases"] if phase["phase"] == "hydrate")
        later = scene.memory_mib * MIB if mode == "post-copy" else 0  # its pages are in no image
        return Moved(
            seen.gap_ms,
            timeline["downtime_s"] * 1000,
            total * 1000,
            result["image_bytes"] + later + disk,
            seen.connections,
            timeline["gap_s"] * 1000 if timeline["gap_s"] is not None else None,
        )

    return move


def in_place(scene: Scene) -> Moved:
    """The floor: `runc checkpoint` and `runc restore` where the container is, on a plain directory; nothing moves."""
    with scene.count() as client:
        client.wait_replies(REPLIES)
        taken = floor.measure(scene.container)
        client.wait_replies(REPLIES)
        seen = client.stop()
    return Moved(seen.gap_ms, taken.total, taken.total, 0, seen.connections)


def cold(scene: Scene) -> Moved:
    """Copy, stop, copy what has changed, start: the connection breaks, and what was in memory alone is lost."""
    moved = _ready(scene)
    with scene.count() as client:
        client.wait_replies(REPLIES)
        start = time.monotonic()
        scene.rsync()
        stopped = time.monotonic()
        scene.container.delete()
        scene.container.network.cut(scene.a)
        scene.rsync()
        scene.container.network.open(scene.b)
        moved.start()
        scene.container.network.announce(scene.b)
        runs = time.monotonic()
        client.wait_replies(REPLIES)
        seen = client.stop()
    return Moved(seen.gap_ms, (runs - stopped) * 1000, (runs - start) * 1000, scene.sent, seen.connections)


def checkpoint(scene: Scene) -> Moved:
    """Copy, `runc checkpoint`, copy images and what has changed, `runc restore`: the connection lives."""
    moved = _ready(scene)
    with scene.count() as client:
        client.wait_replies(REPLIES)
        start = time.monotonic()
        scene.rsync()
        scene.a.run(["mkdir", "-p", scene.container.images])
        stopped = time.monotonic()
        scene.container.network.cut(scene.a)
        scene.container.runc(*scene.container.checkpoint_command())
        scene.rsync()
        moved.runc(*moved.restore_command())
        scene.container.network.open(scene.b)
        scene.container.network.announce(scene.b)
        runs = time.monotonic()
        client.wait_replies(REPLIES)
        seen = client.stop()
    return Moved(seen.gap_ms, (runs - stopped) * 1000, (runs - start) * 1000, scene.sent, seen.connections)


def _ready(scene: Scene) -> Container:
    """Rsync and the network on the target; the container's place there."""
    scene.start_rsync()
    scene.container.network.create(scene.b, up=False)
    return scene.container.at(scene.b)


CONTENDERS: Final[dict[str, Callable[[Scene], Moved]]] = {
    "floor (in place)": in_place,
    "voyager stop-copy": voyager("stop-copy"),
    "voyager post-copy": voyager("post-copy"),
    "runc checkpoint + rsync": checkpoint,
    "stop + rsync + start": cold,
}

# What was not measured, and why; goes into every report.
NOT_RUN: Final = {
    "voyager pre-copy": "refused, before anything happens, where the kernel does not track changes (MEM_SOFT_DIRTY)",
    "podman checkpoint + restore": "it moves containers of its own storage and network, by an archive of the writable "
    "layer of an image that both hosts have; it does not know a container that was made from an OCI bundle",
}
