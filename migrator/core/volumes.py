"""What becomes of each bind mount of a container: whether and how what it shows gets to the target.

Pure: what lies at the sources comes in as facts. The kinds:

lazy     moves through voyfs like the root: a mount of its own, frozen at the same instant
remount  is on the target as well: a network file system, mounted there from the same origin; or, where the user says
         so, whatever lies at the same path there
copy     a small read-only file of the host (resolv.conf, a certificate), re-created from its content
skip     stays behind; the container finds an empty directory, or an empty file, in its place
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any, Final

from migrator.core import bundle


class Kind(StrEnum):
    """See the module."""

    LAZY = "lazy"
    REMOUNT = "remount"
    COPY = "copy"
    SKIP = "skip"


CHOICES: Final = (Kind.LAZY, Kind.REMOUNT, Kind.SKIP)

# File systems of this host alone (voyfs: what has come here by a migration), and those that any host can mount.
LOCAL: Final = frozenset(
    {
        *("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "overlay", "tmpfs"),
        *("ramfs", "fuse.voyfs", "fuse.fuse-overlayfs", "aufs", "vfat", "exfat", "ntfs3", "squashfs", "erofs"),
    }
)
NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "lustre", "beegfs", "gpfs", "afs"})


@dataclass(frozen=True, slots=True)
class Place:
    """What lies at a bind mount's source on its host."""

    directory: bool
    kind: str = ""  # type of the file system
    origin: str = ""  # what is mounted: a device, HOST:/PATH
    options: str = ""  # that make the same mount again
    below: str = "/"  # where in that mount the source is


@dataclass(frozen=True, slots=True)
class Volume:
    """One bind mount, and what becomes of it. `problem`: why it cannot be moved (yet)."""

    destination: str  # in the container
    source: str  # on its host
    kind: Kind
    place: Place
    problem: str = ""
    chosen: bool = False  # by the user

    @property
    def text(self) -> str:
        """For people."""
        what = {
            Kind.LAZY: "moves like the root",
            Kind.REMOUNT: f"is mounted there from {self.place.origin}" if self.remade else "is there at the same path",
            Kind.COPY: "is re-created",
            Kind.SKIP: "stays behind: empty there",
        }[self.kind]
        return f"{self.kind}: {self.source} ({self.place.kind or 'unknown file system'}) {what}"

    @property
    def remade(self) -> bool:
        """Whether the target mounts it, and does not just have it."""
        return self.kind is Kind.REMOUNT and self.place.kind in NETWORK

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "kind": str(self.kind)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Volume:
        """From `to_json`."""
        return cls(**{**value, "kind": Kind(value["kind"]), "place": Place(**value["place"])})


def classify(
    config: Mapping[str, Any], places: Mapping[str, Place], sizes: Mapping[str, int], choices: Mapping[str, str]
) -> list[Volume]:
    """The bind mounts of a config. PLACES and SIZES by source (see `bundle`), CHOICES by destination."""
    found = [
        _volume(bind, places.get(bind.source), choices.get(bind.destination))
        for bind in bundle.bind_mounts(config, sizes)
    ]
    known = {volume.destination for volume in found}
    for destination, choice in choices.items():
        if destination not in known:
            none = Volume(destination, "", Kind(choice), Place(False), "is no bind mount of the container", True)
            found.append(none)
    return found


def _volume(bind: bundle.BindMount, place: Place | None, choice: str | None) -> Volume:
    known = place or Place(False)
    if choice is not None:
        kind = Kind(choice)
        problem = ""
        if kind is Kind.LAZY and not known.directory:
            problem = "is no directory, so it cannot be moved as one"
        return Volume(bind.destination, bind.source, kind, known, problem, True)
    if bind.is_host_file:
        return Volume(bind.destination, bind.source, Kind.COPY, known)
    if known.directory and known.kind in LOCAL:
        return Volume(bind.destination, bind.source, Kind.LAZY, known)
    if known.kind in NETWORK:
        return Volume(bind.destination, bind.source, Kind.REMOUNT, known)
    if place is None:
        why = f"shows {bind.source}, which is gone"
    elif not known.directory:
        why = f"shows a file or device of the host, {bind.source}, that cannot be re-created from its content"
    else:
        why = f"shows {bind.source}, on a file system ({known.kind}) of which it is not known how to move it"
    return Volume(bind.destination, bind.source, Kind.SKIP, known, why)


def lazy(volumes: Sequence[Volume]) -> list[Volume]:
    """Those that are served and mounted, in order."""
    return [volume for volume in volumes if volume.kind is Kind.LAZY]


def owner(path: str, destinations: Sequence[str]) -> tuple[int, str]:
    """Which of the mounts at DESTINATIONS a path of the container lies on, and its path in that; -1: on the root."""
    best, inside = -1, path
    for number, destination in enumerate(destinations):
        place = PurePosixPath(destination)
        if PurePosixPath(path).is_relative_to(place) and (
            best < 0 or len(place.parts) > len(PurePosixPath(destinations[best]).parts)
        ):
            best, inside = number, "/" + str(PurePosixPath(path).relative_to(place))
    return best, "/" if inside == "/." else inside
