"""The turns of a migration at which the operator's programs are run, and how a container's network is treated.

Pure names. It must not know how they are run.
"""

from __future__ import annotations

from enum import StrEnum


class Stage(StrEnum):
    """On which host, and when; a failure of the first two rolls the migration back."""

    BEFORE_FREEZE = "before-freeze"  # target, its disk and network built; then source, about to be paused
    AFTER_RESTORE = "after-restore"  # target, the copy frozen and not committed
    AFTER_COMMIT = "after-commit"  # target, it runs; source, its copy is destroyed
    ON_ABORT = "on-abort"  # target, all of it removed; source, it runs again


class Mode(StrEnum):
    """What becomes of the container's network."""

    VETH = "veth"  # a veth pair on a bridge moves, connections are kept; or there is nothing but lo
    NONE = "none"  # its namespace is made anew with nothing but lo; connections are closed
    HOST = "host"  # it uses its host's network, here and there; connections are closed
    HOOKS = "hooks"  # hooks cut it, and give it to the target; connections are kept

    @property
    def keeps_connections(self) -> bool:
        """Whether established TCP connections go on."""
        return self in (Mode.VETH, Mode.HOOKS)
