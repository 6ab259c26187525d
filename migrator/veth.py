"""An existing veth pair during a migration: cut on the source, opened on the target (SourceLink, TargetLink of ports).

It must not know of runtimes or of the order of a migration. The cut is the state of the host's end: while it is down,
nothing reaches or leaves the container, whatever its own namespace does.
"""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable
from typing import Final

from migrator import netlink
from migrator.core.errors import MigratorError, NetworkFailed
from migrator.core.identity import Identity
from migrator.holding import Hold, Rules
from migrator.netlink import Namespace

FORWARDING_SECONDS: Final = 1.0  # a bridge without STP forwards within a millisecond of its port's rise
ANNOUNCEMENTS: Final = 2  # a second one, in case that the first met a full queue

# What a killed CRIU leaves in a namespace: rules that drop everything. Names: CRIU's criu/netfilter.c.
_UNLOCK: Final = """
for table in $(nft list tables 2>/dev/null | sed -n 's/^table inet \\(CRIU-[0-9]*\\)$/\\1/p'); do
    nft delete table inet "$table"
done
for tables in iptables ip6tables; do
    for chain in INPUT OUTPUT; do
        while $tables -w -D $chain -j CRIU 2>/dev/null; do :; done
    done
    $tables -w -F CRIU 2>/dev/null && $tables -w -X CRIU
done
true
"""


class _Pair:
    """An existing pair, with all that is needed to open and close it without delay."""

    def __init__(self, identity: Identity) -> None:
        """Raises NetworkFailed if it is not there."""
        self.identity = identity
        self._outside: Namespace | None = Namespace()
        index = self._outside.index_of(identity.port)
        if index is None:
            self.close()
            raise NetworkFailed(f"the interface {identity.port} is gone")
        self._port = index
        self._port_raised = False
        self._announcer: socket.socket | None = None
        try:
            inside = Namespace(identity.namespace)
            try:
                self._announcer = inside.announcer(identity.name)
            finally:
                inside.close()
        except MigratorError:
            self.close()
            raise

    @property
    def _host(self) -> Namespace:
        if self._outside is None:
            raise NetworkFailed(f"the interface {self.identity.port} was let go")
        return self._outside

    def _raise_port(self, catch: Callable[[], None] = lambda: None) -> None:
        """Up, forwarding, announced; CATCH is called when it is up."""
        self._host.set_link(self._port, "up")
        catch()
        deadline = time.monotonic() + FORWARDING_SECONDS
        while not self._host.forwards(self._port):
            if time.monotonic() > deadline:
                raise NetworkFailed(
                    f"bridge {self.identity.bridge} does not forward to {self.identity.port}",
                    remedy="is the bridge up? A bridge with spanning tree must have forward_delay 0",
                )
        self._announce()
        self._port_raised = True

    def _announce(self) -> None:
        addresses: list[str | None] = [each.address for each in self.identity.addresses if ":" not in each.address]
        assert self._announcer is not None
        for _ in range(ANNOUNCEMENTS):
            for address in addresses or [None]:
                try:
                    self._announcer.send(netlink.announcement(self.identity.mac, address))
                except OSError as error:
                    raise NetworkFailed(f"cannot announce {self.identity.mac}: {error.strerror}") from error

    def close(self) -> None:
        """Let it go, as it is."""
        if self._outside is not None:
            self._outside.close()
            self._outside = None
        if getattr(self, "_announcer", None) is not None:
            assert self._announcer is not None
            self._announcer.close()
            self._announcer = None


class VethSource(_Pair):
    """See ports.SourceLink."""

    def cut(self) -> None:
        """The port goes down."""
        self._host.set_link(self._port, "down")

    def mend(self) -> None:
        """CRIU's lock goes, the port comes up."""
        subprocess.run(
            ["nsenter", f"--net={self.identity.namespace}", "sh", "-c", _UNLOCK],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._raise_port()


class VethTarget(_Pair):
    """See ports.TargetLink. Closed twice: by rules in its namespace, and until `attract`, by its port being down."""

    def __init__(self, identity: Identity, *, hold: bool = False) -> None:
        """HOLD: it is new, and gets its rules. Else they may be there or not."""
        super().__init__(identity)
        self._hold: Hold | None = None
        try:
            self._inside: Namespace | None = Namespace(identity.namespace)
            if hold:
                self._hold = Hold(self._inside, self._host, identity.name, identity.port)
        except BaseException:
            self.close()
            raise

    def attract(self) -> None:
        """The port comes up, and with the announcement the bridges send the container's frames here."""
        if self._hold is not None:
            self._raise_port(catch=self._hold.catch)

    def open(self) -> None:
        """The rules go, and the held frames come in."""
        assert self._inside is not None
        if self._hold is not None and self._port_raised:
            self._hold.let_go()
        else:
            rules = self._hold.rules if self._hold is not None else Rules(self._inside)
            rules.remove()
            rules.close()
            self._raise_port()

    def answered(self, seconds: float) -> float | None:
        """See ports.TargetLink."""
        return self._hold.answered(seconds) if self._hold is not None and self._port_raised else None

    def close(self) -> None:
        """Let it go, as it is."""
        super().close()
        if getattr(self, "_hold", None) is not None:
            assert self._hold is not None
            self._hold.close()
            self._hold = None
        if getattr(self, "_inside", None) is not None:
            assert self._inside is not None
            self._inside.close()
            self._inside = None
