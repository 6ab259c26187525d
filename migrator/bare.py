"""A network namespace with nothing but lo, as `TargetLink` of ports: there is nothing to hold, and nobody to tell."""

from __future__ import annotations

from migrator import netlink
from migrator.netlink import Namespace


class BareTarget:
    """See ports.TargetLink. What hooks put into the namespace is theirs to open and close."""

    def attract(self) -> None:
        """See ports.TargetLink."""

    def open(self) -> None:
        """See ports.TargetLink."""

    def answered(self, seconds: float) -> float | None:
        """See ports.TargetLink."""
        return None

    def close(self) -> None:
        """See ports.TargetLink."""


def build(path: str) -> BareTarget:
    """Make the namespace; on failure nothing of it stays."""
    inside = Namespace(path, create=True)
    try:
        inside.set_link(1, "up")
    except BaseException:
        netlink.remove_namespace(path)
        raise
    finally:
        inside.close()
    return BareTarget()
