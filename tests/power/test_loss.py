"""Power lost at random points: a real mount on a real ext4 on a disk that forgets what it was not told to keep.

Every block of every file tells whose it is, where it belongs and how new it is. After the loss each must be the
source's or the container's, never older than the last fsync, never zeros or another's; a name must be where the
file was since its directories were last synced, and nowhere else.
"""

import os
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from tests.power.disks import after_power_loss, looped, recorded
from tests.support.programs import Mount, Server, mounted, served
from voyfs.hydrator import Hydrator
from voyfs.rpc.client import GrpcSource
from voyfs.store.store import Store
from voyfs.store.tree import ROOT
from voyfs.vfs import Vfs

State = TypeVar("State")

BLOCK = 4096
DIRECTORIES = [f"d{number}" for number in range(4)] + ["d0/below", "d1/below", "d1/below/deep"]
_STAMP = struct.Struct("<8sIII")


def stamped(number: int, index: int, version: int) -> bytes:
    """Block `index` of file `number` in its `version`; the source's is 0."""
    return _STAMP.pack(b"stamped!", number, index, version) * (BLOCK // _STAMP.size) + bytes(BLOCK % _STAMP.size)


@dataclass
class History:
    """The states of something, each with where the log was when it was begun."""

    states: list[tuple[int, object]]
    floors: list[tuple[int, int]] = field(default_factory=list)  # (where it was durable, how many states were before)

    def change(self, begun: int, state: object) -> None:
        self.states.append((begun, state))

    def synced(self, done: int) -> None:
        self.floors.append((done, len(self.states) - 1))

    def allowed(self, position: int) -> list[object]:
        """What may be found when power was lost at `position`."""
        oldest = max((state for done, state in self.floors if done <= position), default=0)
        return [state for begun, state in self.states[oldest:] if begun <= position]


class File:
    def __init__(self, number: int, path: str | None, blocks: int) -> None:
        self.number = number
        self.name = History([(0, path)])
        self.size = History([(0, blocks)])
        self.blocks = {index: History([(0, 0)]) for index in range(blocks)}

    @property
    def path(self) -> str | None:
        path = self.name.states[-1][1]
        assert path is None or isinstance(path, str)
        return path

    @property
    def length(self) -> int:
        length = self.size.states[-1][1]
        assert isinstance(length, int)
        return length


class Work:
    """One program's work on the mount, and its histories."""

    def __init__(self, mount: Path, log: Path, files: list[File], choose: random.Random) -> None:
        self._mount = mount
        self._log = log
        self.files = files
        self._choose = choose
        self._version = 0

    def _now(self) -> int:
        return self._log.stat().st_size

    def _any(self) -> File:
        return self._choose.choice([file for file in self.files if file.path])

    def _free(self) -> str:
        self._version += 1
        return f"{self._choose.choice(DIRECTORIES)}/n{self._version}"

    def step(self) -> None:
        operations: list[Callable[[], None]] = [
            *(self.write, self.write, self.write, self.append, self.cut, self.read),
            *(self.fsync, self.fsync, self.rename, self.create, self.sync_names),
        ]
        if sum(file.path is not None for file in self.files) > 10:
            operations += self.unlink, self.replace
        self._choose.choice(operations)()

    def _write(self, file: File, first: int, count: int, fd: int) -> None:
        self._version += 1
        begun = self._now()
        data = b"".join(stamped(file.number, index, self._version) for index in range(first, first + count))
        for index in range(first, first + count):
            file.blocks.setdefault(index, History([(0, None)])).change(begun, self._version)
        if first + count > file.length:
            file.size.change(begun, first + count)
        assert os.pwrite(fd, data, first * BLOCK) == len(data)

    def _open(self, file: File) -> int:
        assert file.path is not None
        return os.open(self._mount / file.path, os.O_RDWR)

    def write(self) -> None:
        file = self._any()
        if file.length:
            fd = self._open(file)
            first = self._choose.randrange(file.length)
            self._write(file, first, self._choose.randrange(1, min(50, file.length - first) + 1), fd)
            os.close(fd)

    def append(self) -> None:
        file = self._any()
        fd = self._open(file)
        self._write(file, file.length, self._choose.randrange(1, 20), fd)
        os.close(fd)

    def cut(self) -> None:
        file = self._any()
        length, begun = self._choose.randrange(file.length + 1), self._now()
        file.size.change(begun, length)
        for index in range(length, len(file.blocks)):
            file.blocks[index].change(begun, None)
        assert file.path is not None
        os.truncate(self._mount / file.path, length * BLOCK)

    def read(self) -> None:
        file = self._any()
        assert file.path is not None
        content = (self._mount / file.path).read_bytes()
        for index in range(file.length):
            expected = stamped(file.number, index, file.blocks[index].states[-1][1])  # type: ignore[arg-type]
            assert content[index * BLOCK : (index + 1) * BLOCK] == expected

    def fsync(self) -> None:
        file = self._any()
        fd = self._open(file)
        os.fsync(fd)
        os.close(fd)
        done = self._now()
        for history in (file.size, *file.blocks.values()):
            history.synced(done)

    def rename(self) -> None:
        file, path = self._any(), self._free()
        assert file.path is not None
        old = file.path
        file.name.change(self._now(), path)
        os.rename(self._mount / old, self._mount / path)

    def replace(self) -> None:
        file, victim = self._any(), self._any()
        if file is not victim:
            old, path = file.path, victim.path
            assert old is not None
            assert path is not None
            begun = self._now()
            file.name.change(begun, path)
            victim.name.change(begun, None)
            os.rename(self._mount / old, self._mount / path)

    def unlink(self) -> None:
        file = self._any()
        assert file.path is not None
        path = self._mount / file.path
        file.name.change(self._now(), None)
        path.unlink()

    def create(self) -> None:
        path = self._free()
        file = File(len(self.files), None, 0)
        self.files.append(file)
        file.name.change(self._now(), path)
        fd = os.open(self._mount / path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        self._write(file, 0, self._choose.randrange(1, 40), fd)
        os.close(fd)

    def sync_names(self) -> None:
        for directory in DIRECTORIES:
            fd = os.open(self._mount / directory, os.O_RDONLY)
            os.fsync(fd)
            os.close(fd)
        done = self._now()
        for file in self.files:
            file.name.synced(done)


def _prepare(source: Path, choose: random.Random) -> list[File]:
    source.mkdir()
    files = []
    for directory in DIRECTORIES:
        (source / directory).mkdir(parents=True)
        for name in range(4):
            file = File(len(files), f"{directory}/f{name}", choose.choice((0, 1, 3, 31, 32, 33, 64, 100)))
            blocks = [stamped(file.number, index, 0) for index in range(file.length)]
            (source / directory / f"f{name}").write_bytes(b"".join(blocks))
            files.append(file)
    return files


async def _found(store: Store, vfs: Vfs, hydrator: Hydrator) -> dict[str, bytes]:
    """Every file's content by its path, as the mount would show it."""
    await hydrator.attach()
    found = {}
    waiting = [(ROOT, "")]
    while waiting:
        ino, path = waiting.pop()
        node = store.tree.node(ino)
        await hydrator.populate(node)
        for name, _, is_directory in store.tree.entries(node):
            child, status = store.tree.child(node, name)
            below = f"{path}/{name.decode()}".lstrip("/")
            if is_directory:
                waiting.append((child.ino, below))
            else:
                pieces = [bytes(await vfs.read(child.ino, at, 1 << 17)) for at in range(0, status.st_size, 1 << 17)]
                found[below] = b"".join(pieces)
    return found


def _check(found: dict[str, bytes], files: list[File], position: int) -> None:
    whereabouts: dict[int, list[str]] = {}
    for path, content in found.items():
        if not content:
            continue  # tells of nobody; nothing is in it that could be wrong
        number = _whose(path, content, files, position)
        if number is None:
            continue
        whereabouts.setdefault(number, []).append(path)
        file = files[number]
        assert len(content) % BLOCK == 0
        assert len(content) // BLOCK in file.size.allowed(position), f"{path} has {len(content) // BLOCK} blocks"
        for index in range(len(content) // BLOCK):
            block = content[index * BLOCK : (index + 1) * BLOCK]
            versions = file.blocks[index].allowed(position)
            # None: the file did not reach there, and if the size lasts and the bytes do not there is a hole, as on ext4
            fitting = [bytes(BLOCK) if v is None else stamped(number, index, v) for v in versions]  # type: ignore[arg-type]
            assert block in fitting, (
                f"block {index} of {path} (file {number}) is {_STAMP.unpack_from(block)}, not of {versions}"
            )
    for file in files:
        paths, allowed = whereabouts.get(file.number, []), file.name.allowed(position)
        assert len(paths) <= 1, f"file {file.number} is in several places: {paths}"
        if paths:
            assert paths[0] in allowed, f"file {file.number} is {paths[0]}, not one of {allowed}"
        elif None not in allowed:
            assert any(found.get(path, b"?").strip(b"\0") == b"" for path in allowed if isinstance(path, str)), (
                f"file {file.number} is lost; it was one of {allowed}"
            )


def _whose(path: str, content: bytes, files: list[File], position: int) -> int | None:
    """The number of the file that is at `path`; None for one that lost all its bytes, and may have."""
    for at in range(0, len(content), BLOCK):
        magic, number, _, _ = _STAMP.unpack_from(content, at)
        if magic == b"stamped!":
            assert isinstance(number, int)
            return number
    assert any(
        path in file.name.allowed(position)
        and len(content) // BLOCK in file.size.allowed(position)
        and all(None in file.blocks[index].allowed(position) for index in range(len(content) // BLOCK))
        for file in files
    ), f"{path} is nothing but zeros"
    return None


def _lose(base: Path, server: Server, files: list[File], position: int, choose: random.Random) -> None:
    image = base / "crashed"
    after_power_loss(base, position, choose, image)
    with looped(image, base / "after") as where:
        if not (where / "store" / "state").exists():
            return  # power was lost before there was a store

        async def look() -> dict[str, bytes]:
            store = Store(where / "store", "another boot", taking_over=False)
            try:
                async with GrpcSource(server.address) as source:
                    hydrator = Hydrator(store, source)
                    return await _found(store, Vfs(store, hydrator), hydrator)
            finally:
                store.close()

        _check(trio.run(look), files, position)


def test_nothing_that_was_synced_is_lost_and_nothing_is_made_up(tmp_path: Path, torture: bool, seed: int) -> None:
    choose = random.Random(seed)
    files = _prepare(tmp_path / "source", choose)
    with served(tmp_path / "source") as server:
        with (
            recorded(tmp_path) as disk,
            mounted(server.address, tmp_path / "mount", disk / "store", "--warm") as mount,
        ):
            begun = (tmp_path / "log").stat().st_size
            work = Work(mount.path, tmp_path / "log", files, choose)
            _work(work, mount, 1500 if torture else 250)
            ended = (tmp_path / "log").stat().st_size
            mount.unmount()
        for _ in range(300 if torture else 12):
            position = choose.randrange(begun, ended + 1)
            try:
                _lose(tmp_path, server, files, position, choose)
            except BaseException:
                print("power was lost at", position, "of", begun, "to", ended)
                raise


def _work(work: Work, mount: Mount, steps: int) -> None:
    for number in range(steps):
        if number == steps // 2:
            mount.ask("hydrate")
        work.step()
