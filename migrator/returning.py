"""Brings back what was committed: this host asks the target for its container, or is asked for one.

It must not know how a container moves: the way back is a migration like any other, which the host that has the
container drives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from migrator.core.advice import no_way_back
from migrator.core.errors import PeerUnreachable, Refused
from migrator.core.memory import Memory
from migrator.core.phases import HOME, REVERSIBLE, Phase
from migrator.core.plan import Options
from migrator.migrations import Connect, Migrations
from migrator.ports import Journal


class Returns:
    """Ways back, of both kinds."""

    def __init__(self, migrations: Migrations, journal: Journal, connect: Connect) -> None:
        """CONNECT makes a peer for an address."""
        self._migrations = migrations
        self._journal = journal
        self._connect = connect

    def roll_back(self, migration: str) -> Iterator[Mapping[str, Any]]:
        """Ask for the container of a migration from here; what its way back tells, to the end.

        Raises MigrationUnknown, TooLate where this host keeps nothing of it any more, Refused where the target does not
        have it yet, or has it no more, and PeerUnreachable: after the first event, the way back goes on without us.
        """
        known = self._migrations.describe(migration)
        container, peer_address = known["container"], known["peer"]
        if known["side"] != "source":
            raise Refused(
                f"migration {migration} comes to this host, and is not this host's to roll back",
                remedy=f"roll it back on {peer_address}, or move container {container} with 'migrator migrate'",
            )
        phase = Phase(known["phase"])
        if phase not in REVERSIBLE:
            raise no_way_back(phase, migration, container, peer_address)
        asked = Options(**self._journal.read(migration)[0]["options"])
        options = replace(asked, memory=Memory.AUTO, seeds=(), remove_source=False, failback_window=0.0)
        peer, back = self._connect(peer_address), ""
        try:
            for event in peer.give_back(migration, options):
                back = event["migration"]
                yield event
        except PeerUnreachable as error:
            if not back:
                raise
            raise PeerUnreachable(
                f"{peer_address}, which brings container {container} back, is not heard any more: {error.message}",
                remedy=f"it goes on there by itself; see 'migrator status {back}' there, or here",
            ) from error
        finally:
            peer.close()

    def give_back(self, migration: str, options: Options) -> Iterator[Mapping[str, Any]]:
        """Asked by the source of a migration to here: move its container there; what that tells, to the end.

        Raises MigrationUnknown, Refused, Busy.
        """
        entries = self._journal.read(migration)
        first, hold = entries[0], entries[-1]["decision"]
        if first.get("side") != "target":
            raise Refused(f"migration {migration} did not come to this host")
        if hold not in HOME:
            raise Refused(
                f"migration {migration} is '{hold}' on the target: container {first['container']} is not there",
                remedy="see 'migrator list' there",
            )
        return self._migrations.follow(self._migrations.start(first["container"], first["source_agent"], options))
