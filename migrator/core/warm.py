"""Which files a restore will open, told from /proc: so that none of them is fetched while the container is frozen.

Pure: text of /proc files in, paths (as the container sees them) out. It must not read /proc itself.

Files that can be written into, for somebody has them open for writing or mapped so, are left out: their content may
change without a sign until they are closed, so what was fetched early could be stale in a way that the refresh at
the freeze does not see. There all such files are looked at again.
"""

from __future__ import annotations

from collections.abc import Iterable
from os import O_ACCMODE, O_RDONLY
from pathlib import PurePosixPath

_DELETED = " (deleted)"


def _is_file(path: str) -> bool:
    return path.startswith("/") and not path.endswith(_DELETED) and not path.startswith("//")


def mapped_files(maps: str) -> tuple[set[str], set[str]]:
    """Of /proc/PID/maps: the files mapped private or read-only, and those mapped shared and writable."""
    quiet: set[str] = set()
    live: set[str] = set()
    for line in maps.splitlines():
        parts = line.split(maxsplit=5)
        if len(parts) < 6 or not _is_file(parts[5]) or parts[4] == "0":
            continue
        path = parts[5].replace("\\012", "\n")
        mode = parts[1]
        (live if "w" in mode and "s" in mode else quiet).add(path)
    return quiet - live, live


def is_written(fdinfo: str) -> bool:
    """Whether a descriptor is one to write with, by its /proc/PID/fdinfo."""
    flags = next((line.split()[1] for line in fdinfo.splitlines() if line.startswith("flags:")), "0")
    return int(flags, 8) & O_ACCMODE != O_RDONLY


def live_paths(maps: Iterable[str], written: Iterable[str]) -> list[str]:
    """Files that can be written into. WRITTEN: link texts of descriptors to write with."""
    found = {path for path in written if _is_file(path)}
    for text in maps:
        found |= mapped_files(text)[1]
    return sorted(found)


def warm_paths(
    maps: Iterable[str], opened: Iterable[str], mounts: Iterable[str], written: Iterable[str] = ()
) -> tuple[list[str], list[str]]:
    """What to fetch whole, and what only to look up (name and attributes), before the freeze.

    MAPS: the processes' maps. OPENED: link texts of their cwd, root, exe and descriptors; WRITTEN: those of
    descriptors to write with. MOUNTS: the container's mount points; what lies below one (tmpfs, proc) is not on the
    root.
    """
    fetched: set[str] = set()
    live = {path for path in written if _is_file(path)}
    for text in maps:
        quiet, shared = mapped_files(text)
        fetched |= quiet
        live |= shared
    below = [PurePosixPath(mount) for mount in mounts if mount != "/"]
    known = fetched | live | {each for each in opened if _is_file(each)}
    on_root = {path for path in known if not _covered(path, below)}
    looked_up = on_root | {str(mount) for mount in below}  # also one below another: runtimes look below
    return sorted((fetched - live) & on_root), sorted(looked_up)


def _covered(path: str, mounts: list[PurePosixPath]) -> bool:
    return any(PurePosixPath(path).is_relative_to(mount) for mount in mounts)
