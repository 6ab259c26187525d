"""Seeds: local trees that may have what a mount's source has, such as the same image, or a container's old root.

A file of the source is looked up by its path below each seed, and what is there is offered chunk by chunk.
An offer is bytes in memory and their digest: what lands are these bytes, whatever becomes of the seed meanwhile.
Nothing outside a seed is opened, nor what lies behind a symbolic link or on another mount, nor any special file.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from operator import itemgetter
from pathlib import Path

from voyfs.core.errors import SeedError
from voyfs.core.extents import Extent
from voyfs.core.limits import CHUNK, SEEDS
from voyfs.core.offers import Offer, digest_of, divided
from voyfs.handshake import FILE_SYSTEM
from voyfs.logs import get_logger
from voyfs.mounts import mounts
from voyfs.rpc.openat import open_regular

log = get_logger(__name__)

_ZEROS = bytes(CHUNK)


def check_seeds(directories: Sequence[str], *, mountpoint: str, store: str) -> None:
    """Raises SeedError unless all of `directories` can be seeds of a mount at `mountpoint`."""
    if len(directories) > SEEDS:
        raise SeedError(
            f"{len(directories)} seeds are more than {SEEDS}; give those with most in common with the source"
        )
    for directory in directories:
        try:
            os.close(_open(directory))
        except NotADirectoryError:
            raise SeedError(f"the seed {directory} is not a directory; give the root of a local tree") from None
        except OSError as error:
            raise SeedError(f"the seed {directory} cannot be used: {error.strerror}; give another, or none") from error
        where = Path(directory).resolve()
        for own, what in ((mountpoint, "mount point"), (store, "store")):
            if where.is_relative_to(Path(own).resolve()):
                raise SeedError(f"the seed {directory} lies in the {what}; give a tree of another origin")
        if _kind(where) == FILE_SYSTEM:
            raise SeedError(f"the seed {directory} is on a voyfs mount; give the data directory of its store")


def _kind(where: Path) -> str:
    """The type of the file system that `where` is on."""
    around = [(len(point.parts), kind) for point, kind, _ in reversed(mounts()) if where.is_relative_to(point)]
    return max(around, key=itemgetter(0), default=(0, ""))[1]


def _open(directory: str) -> int:
    return os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


class Seeds:
    """Open seeds; one that cannot be opened has nothing. `offers` may be called from any thread."""

    def __init__(self, directories: Sequence[str]) -> None:
        self._roots: dict[str, int] = {}
        self._useless: dict[str, str] = {}  # and why, of which nobody was told yet
        for directory in directories:
            try:
                self._roots[directory] = _open(directory)
            except OSError as error:
                self._useless[directory] = error.strerror or str(error)

    def offers(self, path: bytes, extents: Sequence[Extent]) -> list[Offer]:
        """What there is to offer for `extents` of the source's file `path`.

        Nothing twice, and no zeros, which the source would not send anyway. What cannot be read is not offered.
        """
        with ExitStack() as opened:
            files = []
            for root in list(self._roots.values()):
                try:
                    file = open_regular(root, path)
                except OSError:
                    continue
                if file is not None:
                    opened.callback(os.close, file)
                    files.append(file)
            return [offer for part in divided(extents, CHUNK) for offer in _offers(files, part)] if files else []

    def look(self) -> None:
        """Logs, once for each, which seeds have nothing because they are gone."""
        for directory, root in list(self._roots.items()):
            if os.fstat(root).st_nlink == 0:
                del self._roots[directory]  # not closed: another thread may be about to use it
                self._useless[directory] = "it was removed"
        for directory, why in self._useless.items():
            log.warning("seed-ignored", path=directory, why=why)
        self._useless.clear()


def _offers(files: Sequence[int], part: Extent) -> Iterator[Offer]:
    known: set[bytes] = set()
    for file in files:
        try:
            data = os.pread(file, part.length, part.start)
        except OSError:
            continue
        if len(data) == part.length and not _ZEROS.startswith(data):
            digest = digest_of(data)
            if digest not in known:
                known.add(digest)
                yield Offer(part.start, data, digest)
