"""CRIU's images in memory: rooms for them, reading them out while they are written, writing them on the other side.

It must not know what is in an image, nor how pieces travel.
"""

from __future__ import annotations

import mmap
import os
import re
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import xxhash

from migrator import syscalls
from migrator.core import limits, pagemap
from migrator.core.errors import NoSpace, RuntimeFailed, TransferFailed
from migrator.core.plan import ImagePiece

PARENT: Final = "parent"  # CRIU's link from images to those of the round before
_ROUND: Final = re.compile(r"round-([1-9]\d?)")


def round_name(number: int) -> str:
    """Directory in a room of the images that round NUMBER (from 1) of moving memory ahead has made."""
    return f"round-{number}"


class Room:
    """A tmpfs of its own for one container's images, with a directory for them and one for CRIU's work files."""

    def __init__(self, directory: Path) -> None:
        """The room at DIRECTORY; `make` makes it."""
        self.directory = directory
        self.images = directory / "images"
        self.work = directory / "work"

    def make(self) -> Room:
        """Mount it; what an earlier run left there goes first. Raises NoSpace."""
        try:
            self.remove()
            self.directory.mkdir(parents=True, mode=0o700)
            # As much as there is: whether that is enough was checked before, and the kernel's default is half of it.
            syscalls.mount("migrator-images", str(self.directory), "tmpfs", options="mode=700,size=90%")
            self.images.mkdir()
            self.work.mkdir()
        except OSError as error:
            raise NoSpace(f"cannot make room for images in {self.directory}: {error.strerror}") from error
        return self

    def close(self) -> None:
        """Nothing more goes in: CRIU fails at what it writes next, and lets tasks go as they were."""
        try:
            found = os.statvfs(self.directory)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            options = f"mode=700,size={max(used, found.f_frsize)}"  # of 0 it makes no limit
            syscalls.mount("migrator-images", str(self.directory), "tmpfs", syscalls.MS_REMOUNT, options)
        except OSError:
            return  # it has grown meanwhile, and CRIU goes on to its end

    def remove(self) -> None:
        """Unmount it, and whatever CRIU left mounted in it; the memory is free when nobody uses it any more."""
        try:
            syscalls.unmount_below(str(self.directory))
            if self.directory.exists():
                self.directory.rmdir()
        except OSError as error:
            raise RuntimeFailed(f"cannot remove {self.directory}: {error.strerror}") from error

    def log_tail(self, name: str) -> list[str]:
        """The errors in a log of CRIU or of the runtime, and its last lines; none if there is none."""
        try:
            lines = (self.work / name).read_text(errors="replace").splitlines()
        except OSError:
            return []
        last = lines[-limits.LOG_LINES :]
        # After the error that matters come some more, and the story of how tasks are let go.
        before = [line for line in lines[: -limits.LOG_LINES] if "Error (" in line][: limits.LOG_LINES // 2]
        return [*before, *last[len(before) :]]


class Outgoing:
    """Reads image files out as soon as they are complete, while a program writes them."""

    def __init__(self, directory: Path, prefix: str = "") -> None:
        """Watch DIRECTORY; PREFIX comes before the names of its files."""
        self._directory = directory
        self._prefix = prefix
        self._watch = syscalls.Watch(str(directory))
        self._sent: dict[str, tuple[int, int]] = {}

    def follow(self, process: subprocess.Popen[bytes], ready: int = -1) -> Iterator[ImagePiece]:
        """Until the program has ended, or READY can be read. `finish` must be called then, if it succeeded."""
        ended = os.pidfd_open(process.pid)
        try:
            while True:
                known = [self._watch.descriptor, ended] + ([ready] if ready >= 0 else [])
                found = select.select(known, [], [])[0]
                for name in self._watch.names():
                    yield from self._file(name)
                if ended in found or ready in found:
                    return
        finally:
            os.close(ended)

    def finish(self) -> Iterator[ImagePiece]:
        """What is not sent yet, or was changed after it was sent."""
        for name in sorted(os.listdir(self._directory)):
            if name != PARENT:
                yield from self._file(name)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def _file(self, name: str) -> Iterator[ImagePiece]:
        try:
            with open(self._directory / name, "rb", buffering=0) as file:
                found = os.stat(file.fileno())
                version = (found.st_size, found.st_mtime_ns)
                if self._sent.get(name) == version:
                    return
                self._sent[name] = version
                yield from _pieces(self._prefix + name, file, found.st_size)
        except FileNotFoundError:
            return


def lazy_bytes(directory: Path) -> int:
    """Memory that follows the images in DIRECTORY; 0 where that would take long to count."""
    try:
        maps = list(directory.glob(pagemap.NAMES))
        if sum(path.stat().st_size for path in maps) > limits.PAGEMAP_BYTES:
            return 0
        return sum(pagemap.lazy_pages(path.read_bytes()) for path in maps) * mmap.PAGESIZE
    except OSError:
        return 0


def _pieces(name: str, file: IO[bytes], size: int) -> Iterator[ImagePiece]:
    digest, offset = xxhash.xxh3_128(), 0
    while True:
        data = file.read(min(limits.IMAGE_PIECE_BYTES, size - offset)) if offset < size else b""
        digest.update(data)
        last = offset + len(data) >= size or not data
        yield ImagePiece(name, offset, data, last, digest.digest() if last else b"")
        offset += len(data)
        if last:
            return


class Incoming:
    """Writes pieces to files, and checks each whole file against its digest."""

    def __init__(self, room: Room) -> None:
        """Files appear in ROOM: in its images, or in the directories of rounds before."""
        self._room = room
        self._name = ""
        self._file: IO[bytes] | None = None
        self._offset = 0
        self._digest = xxhash.xxh3_128()

    def accept(self, piece: ImagePiece) -> int:
        """Write a piece; bytes written. Raises TransferFailed, NoSpace."""
        if piece.offset == 0:
            if self._file is not None:
                raise TransferFailed(f"image {self._name} did not arrive whole")
            self._file = open(self._place(piece.name), "wb", buffering=0)  # noqa: SIM115 - closed with its last piece
            self._name, self._offset, self._digest = piece.name, 0, xxhash.xxh3_128()
        if self._file is None or piece.name != self._name or piece.offset != self._offset:
            raise TransferFailed(f"a piece of image {piece.name} came out of order")
        try:
            self._file.write(piece.data)
        except OSError as error:
            raise NoSpace(f"cannot store image {piece.name}: {error.strerror}", remedy="free memory there") from error
        self._digest.update(piece.data)
        self._offset += len(piece.data)
        if piece.last:
            self._file.close()
            self._file = None
            if self._digest.digest() != piece.digest:
                raise TransferFailed(f"image {piece.name} arrived changed", remedy="check the link between the hosts")
        return len(piece.data)

    def _place(self, name: str) -> Path:
        """Where an image belongs; a round's directory, and the link to the round before, are made with its first."""
        directory, slash, file = name.rpartition("/")
        found = _ROUND.fullmatch(directory)
        if file in ("", ".", "..", PARENT) or (slash and found is None):
            raise TransferFailed(f"{name!r} is no name of an image")
        if found is None:
            before = sum(1 for each in self._room.directory.iterdir() if _ROUND.fullmatch(each.name))
            place = self._room.images
        else:
            before = int(found[1]) - 1
            place = self._room.directory / directory
            place.mkdir(exist_ok=True)
        if before and not (place / PARENT).is_symlink():
            (place / PARENT).symlink_to(f"../{round_name(before)}")
        return place / file
