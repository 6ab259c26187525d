"""The listening sockets of a network namespace, asked without delay: what /proc tells of them takes milliseconds.

It must not know of containers.
"""

from __future__ import annotations

import socket
from typing import Final

from pyroute2 import DiagSocket

from migrator.netlink import Namespace

_LISTEN: Final = 1 << 10  # TCP_LISTEN (net/tcp_states.h) in a mask of states


class Listening:
    """Those of a process's namespace."""

    def __init__(self, pid: int) -> None:
        """Raises NetworkFailed."""
        self._namespace = Namespace(f"/proc/{pid}/ns/net")
        self._diag = self._namespace.call(self._make, "asking for sockets")
        self.unaccepted()  # what is loaded with the first question is loaded now

    @staticmethod
    def _make() -> DiagSocket:
        made = DiagSocket()
        made.bind()
        return made

    def unaccepted(self) -> int:
        """TCP connections that wait in their queues to be accepted. Raises NetworkFailed."""
        return self._namespace.call(self._count, "asking for sockets")

    def _count(self) -> int:
        # Of a listening socket the length of its queue is told as that of what it has received (sock_diag(7)).
        return sum(
            int(found["idiag_rqueue"])
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in self._diag.get_sock_stats(family=family, states=_LISTEN)
        )

    def close(self) -> None:
        """Ask no more."""
        self._namespace.call(self._diag.close, "closing")
        self._namespace.close()
