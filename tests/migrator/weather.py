"""A bad link between two hosts: it loses packets all the time, and breaks off and comes back, at random."""

from __future__ import annotations

import random
import threading
from types import TracebackType
from typing import Self

from benchmarks.lab.hosts import Host

LOSS = 5  # of 1000 packets, either way
FAIR_SECONDS = (0.5, 6.0)
# Most outages are over before anybody takes the other side for lost; a few are not.
SHORT_SECONDS, LONG_SECONDS, LONG_SHARE = (0.1, 2.5), (6.0, 9.0), 0.15
_TABLE = "weather"


class Weather:
    """A context manager: bad from its start to its end. The container's own clients are not touched by it."""

    def __init__(self, one: Host, other: Host, seed: int, *, stormy: bool) -> None:
        """SEED decides when it breaks off, which way, and for how long; only a STORMY one has long outages."""
        self._hosts = ((one, other), (other, one))
        self._random = random.Random(seed)
        self._long_share = LONG_SHARE if stormy else 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="weather", daemon=True)
        self.outages = 0

    def __enter__(self) -> Self:
        """Begin."""
        for host, other in self._hosts:
            rule = f"ip saddr {other.address} numgen random mod 1000 < {LOSS} counter drop"
            loss = f"chain loss {{ type filter hook input priority 0; {rule}; }}"
            outage = "chain outage { type filter hook input priority 1; }"
            host.run(["nft", "-f", "-"], input=f"table inet {_TABLE} {{\n{loss}\n{outage}\n}}\n")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Clear up."""
        self._over.set()
        self._thread.join()
        for host, _ in self._hosts:
            host.run(["nft", "delete", "table", "inet", _TABLE])

    @property
    def lost(self) -> int:
        """Packets that were lost beside the outages."""
        words = ["nft", "list", "chain", "inet", _TABLE, "loss"]
        return sum(int(host.run(words).stdout.partition("packets ")[2].split()[0]) for host, _ in self._hosts)

    def _run(self) -> None:
        while not self._over.wait(self._random.uniform(*FAIR_SECONDS)):
            ways = self._random.choice([self._hosts[:1], self._hosts[1:], self._hosts])
            for host, other in ways:
                host.run(["nft", "add", "rule", "inet", _TABLE, "outage", "ip", "saddr", other.address, "drop"])
            self.outages += 1
            long = self._random.random() < self._long_share
            self._over.wait(self._random.uniform(*(LONG_SECONDS if long else SHORT_SECONDS)))
            for host, _ in ways:
                host.run(["nft", "flush", "chain", "inet", _TABLE, "outage"])
