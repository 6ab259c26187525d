"""The floor of any downtime: `runc checkpoint` and `runc restore` of a container in place, on a plain directory.

Nothing that moves a container with these two programs can be faster, so this is what a migration is compared with, in
the same run and on the same machine.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Final

from benchmarks.lab import timed
from benchmarks.lab.container import Container

CONFIG: Final = "/run/voyager-lab-criu.conf"


@dataclass(frozen=True)
class Floor:
    """Milliseconds."""

    checkpoint: float
    restore: float

    @property
    def total(self) -> float:
        """The least downtime."""
        return self.checkpoint + self.restore


def measure(container: Container, *, lock_network: bool = True) -> Floor:
    """Checkpoint and restore a running CONTAINER in place, with its established connections.

    LOCK_NETWORK: CRIU closes the network itself, as it does by default. Otherwise it is told not to, which saves time,
    and the container's port is lowered from before the checkpoint until after the restore, as a migration does.
    """
    host, images = container.host, container.images
    host.run(["sh", "-c", f"rm -rf {shlex.quote(str(images))}; mkdir -p {shlex.quote(str(images))}"])
    commands = [["runc", *container.checkpoint_command()], ["runc", *container.restore_command()]]
    env = {}
    if not lock_network:
        host.path_of(CONFIG).write_text("network-lock skip\n")
        env["CRIU_CONFIG_FILE"] = CONFIG
        container.network.cut(host)
    try:
        checkpoint, restore = timed.milliseconds(host, *commands, env=env)
    finally:
        if not lock_network:
            container.network.open(host)
    return Floor(checkpoint, restore)
