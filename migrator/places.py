"""Where containers that come to this host live, and which come back to it, as its journal tells.

It must not know how they come.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from migrator.core.phases import ENDED, Hold, Phase
from migrator.ports import Disk, Journal


def place_for(container: str, containers: PurePosixPath, disk: Disk, journal: Journal) -> str:
    """The directory for a container that comes here: CONTAINERS/NAME.

    Or another beside it, while a migration away from there still needs that: the container may be back before the
    host that it comes back from has all of its disk.
    """
    usual = str(containers / container)
    if disk.taken(usual) and _is_being_left(usual, journal):
        return f"{usual}~2"  # no container can be called so
    return usual


def _is_being_left(directory: str, journal: Journal) -> bool:
    for migration in journal.migrations():
        entries = journal.read(migration)
        first = entries[0]
        under_way = first.get("side") == "source" and entries[-1]["decision"] not in ENDED
        if under_way and first["container"]["bundle"] == directory:
            return True
    return False


def is_being_handed_over(container: str, journal: Journal) -> bool:
    """Whether a container of that name is committed to another host, and what it was here may yet be taken down.

    An agent that was killed meanwhile does that again, by the container's name and its interface's.
    """
    for migration in journal.migrations():
        entries = journal.read(migration)
        first = entries[0]
        handing = first.get("side") == "source" and entries[-1]["decision"] == Phase.COMMIT
        if handing and first["container"]["name"] == container:
            return True
    return False


def kept_tree(container: str, containers: PurePosixPath) -> str:
    """Where the files of a container that came here stay when it leaves."""
    return str(containers / ".kept" / container)


def seeds_for(container: str, containers: PurePosixPath, journal: Journal) -> list[str]:
    """Where trees may be that a container of that name has left on this host, the latest first, each once."""
    found = []
    for migration in reversed(journal.migrations()):
        first = journal.read(migration)[0]
        if first.get("side") == "source" and first["container"]["name"] == container:
            bundle, root = PurePosixPath(first["container"]["bundle"]), first["container"]["root"]
            # One that came by migration has its files in a store, which its root shows.
            found.append(str(bundle / "store/data") if bundle.parent == containers else root)
    return list(dict.fromkeys([*found, kept_tree(container, containers)]))


def arrival(migration: str, journal: Journal) -> Hold:
    """See ports.Places."""
    names = journal.migrations()
    if migration not in names:
        return Hold.ABSENT
    container = journal.read(migration)[0]["container"]["name"]
    for later in reversed(names[names.index(migration) + 1 :]):
        entries = journal.read(later)
        first, hold = entries[0], entries[-1]["decision"]
        if first.get("side") == "target" and first["container"] == container and hold != Hold.DISCARDED:
            return Hold(hold)
    return Hold.ABSENT
