"""What has changed in a tree since some moment, as a bounded set of names.

Pure. A directory is named by a key of whoever keeps the set: its path changes when it, or one above it, is renamed.
"""

from dataclasses import dataclass, field

from voyfs.core.limits import TOUCHED_NAMES


@dataclass(frozen=True, slots=True)
class Touched:
    """Entries `names` of the directory `path`, and the directory itself, may be others than before."""

    path: bytes
    names: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened to the entry `name` of `directory`, or, without a name, to `directory` itself.

    Keys are opaque. `child` is the entry's own where it is known; `directory` is None where only that is. `moves`: a
    directory has another place now. `lost`: events before this one were dropped.
    """

    directory: bytes | None = None
    name: bytes = b""
    child: bytes | None = None
    moves: bool = False
    lost: bool = False


@dataclass(slots=True)
class Changes:
    """A set of touched names and of inodes that were changed under names not known; full beyond TOUCHED_NAMES."""

    names: dict[bytes, set[bytes]] = field(default_factory=dict)
    inodes: set[int] = field(default_factory=set)
    _size: int = 0

    def touch(self, directory: bytes, name: bytes) -> None:
        """`name` in `directory`; with an empty one the directory itself."""
        names = self.names.get(directory)
        if names is None:
            names = self.names[directory] = set()
            self._size += 1
        if name and name not in names:
            names.add(name)
            self._size += 1

    def change(self, inode: int) -> None:
        self.inodes.add(inode)

    @property
    def full(self) -> bool:
        return self._size + len(self.inodes) > TOUCHED_NAMES
