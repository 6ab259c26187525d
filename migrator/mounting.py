"""A container's file systems on the target, seen as one: its root, its volumes, and what is mounted from elsewhere.

Each tree has a mount and a store of its own. It must not know what mounts them, nor how they got their names.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, TypeVar

from migrator.core.errors import DiskFailed, MigratorError
from migrator.core.plan import Order, Progress
from migrator.core.volumes import Kind, Volume, owner
from migrator.ports import Borrowed, Disk, Mounted

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Trees:
    """See ports.Mounted; paths are the container's, and find the tree that they lie on."""

    root: Mounted
    volumes: dict[str, Mounted] = field(default_factory=dict)  # by destination
    borrowed: list[Borrowed] = field(default_factory=list)  # mounted from their own origin

    @property
    def _all(self) -> list[Mounted]:
        return [self.root, *self.volumes.values()]

    def prefetch(self, paths: Sequence[str]) -> None:
        """See ports.Mounted. All at once: so how much it is, is known from the start."""
        found = list(self._sorted(dict.fromkeys(paths, 0)))
        if found:
            with ThreadPoolExecutor(len(found)) as pool:
                list(pool.map(lambda each: each[0].prefetch(list(each[1])), found))

    @property
    def prefetched(self) -> Progress:
        """See ports.Mounted."""
        return _sum([tree.prefetched for tree in self._all], whole=True)

    def warm(self, seconds: float) -> None:
        """See ports.Mounted. All at once."""
        self._each(lambda tree: tree.warm(seconds))

    def look_up(self, paths: Sequence[str]) -> None:
        """See ports.Mounted."""
        for tree, those in self._sorted(dict.fromkeys(paths, 0)):
            tree.look_up(list(those))

    def fetch_ends(self, paths: Sequence[str]) -> None:
        """See ports.Mounted."""
        for tree, those in self._sorted(dict.fromkeys(paths, 0)):
            tree.fetch_ends(list(those))

    def refresh(self, live: Sequence[str]) -> int:
        """See ports.Mounted. All at once: the container stands still meanwhile."""
        sorted_ = {id(tree): list(those) for tree, those in self._sorted(dict.fromkeys(live, 0))}
        return sum(self._each(lambda tree: tree.refresh(sorted_.get(id(tree), []))))

    def set_times(self, times: Mapping[str, int]) -> None:
        """See ports.Mounted."""
        for tree, those in self._sorted(times):
            tree.set_times(those)

    def hydrate(self) -> Iterator[Progress]:
        """See ports.Mounted. All at once; what comes is the sum."""
        if not self.volumes:
            yield from self.root.hydrate()
            return
        latest: dict[int, Progress] = {}
        told: queue.SimpleQueue[tuple[int, Progress | BaseException | None]] = queue.SimpleQueue()

        def follow(number: int, tree: Mounted) -> None:
            try:
                for progress in tree.hydrate():
                    told.put((number, progress))
                told.put((number, None))
            except BaseException as error:
                told.put((number, error))

        pool = ThreadPoolExecutor(len(self._all), thread_name_prefix="hydrating")
        try:
            for number, tree in enumerate(self._all):
                pool.submit(follow, number, tree)
            ended = 0
            while ended < len(self._all):
                number, what = told.get()
                if isinstance(what, BaseException):
                    raise what
                if what is None:
                    ended += 1
                else:
                    latest[number] = what
                    yield _sum(list(latest.values()), whole=len(latest) == len(self._all))
        finally:
            pool.shutdown(wait=False)

    @property
    def detached(self) -> bool:
        """See ports.Mounted."""
        return all(tree.detached for tree in self._all)

    @property
    def missing_bytes(self) -> int:
        """See ports.Mounted."""
        return sum(tree.missing_bytes for tree in self._all)

    def verify(self) -> None:
        """See ports.Mounted."""
        for name, tree in (("", self.root), *self.volumes.items()):
            try:
                if not tree.detached:  # in an earlier try
                    tree.verify()
            except DiskFailed as error:
                if not name:
                    raise
                raise type(error)(f"volume {name}: {error.message}", remedy=error.remedy) from error

    def detach(self) -> None:
        """See ports.Mounted. May be repeated after a part of it."""
        for tree in self._all:
            if not tree.detached:
                tree.detach()

    def discard(self) -> None:
        """See ports.Mounted. Every one is tried."""
        problems: list[MigratorError] = []
        for mounted in [*self.borrowed, *reversed(self._all)]:
            try:
                mounted.discard()
            except MigratorError as error:
                problems.append(error)
        if problems:
            raise problems[0]

    def _sorted(self, paths: Mapping[str, int]) -> Iterator[tuple[Mounted, dict[str, int]]]:
        """PATHS by the tree that they lie on, as paths in it."""
        destinations = list(self.volumes)
        found: dict[int, dict[str, int]] = {}
        for path, value in paths.items():
            number, inside = owner(path, destinations)
            found.setdefault(number, {})[inside] = value
        for number, those in found.items():
            yield (self.root if number < 0 else self.volumes[destinations[number]]), those

    def _each(self, act: Callable[[Mounted], T]) -> list[T]:
        if not self.volumes:
            return [act(self.root)]
        with ThreadPoolExecutor(len(self._all)) as pool:
            return list(pool.map(act, self._all))


def _sum(parts: list[Progress], *, whole: bool) -> Progress:
    etas = [part.eta for part in parts]
    return Progress(
        bytes_present=sum(part.bytes_present for part in parts),
        bytes_total=sum(part.bytes_total for part in parts),
        files_present=sum(part.files_present for part in parts),
        files_total=sum(part.files_total for part in parts),
        fetched_bytes=sum(part.fetched_bytes for part in parts),
        rate=sum(part.rate for part in parts),
        eta=None if None in etas or not whole else max(eta for eta in etas if eta is not None),
        complete=whole and all(part.complete for part in parts),
        seed_bytes=sum(part.seed_bytes for part in parts),
    )


def places(directory: str, volumes: Sequence[Volume]) -> dict[str, PurePosixPath]:
    """By destination: where on the target a bind mount's source will be, of all that has a place of its own there."""
    found = {}
    for number, volume in enumerate(volumes):
        base = PurePosixPath(directory) / "volumes" / str(number)
        if volume.kind is Kind.LAZY:
            found[volume.destination] = base / "root"
        elif volume.remade:
            found[volume.destination] = base / "mount" / volume.place.below.lstrip("/")
        elif volume.kind is Kind.SKIP:
            found[volume.destination] = base / "empty"
    return found


def mount(disk: Disk, order: Order, directory: str, found: Sequence[str] = ()) -> Trees:
    """Mount everything of an order; on failure nothing stays mounted. FOUND: seeds of the root, beside the order's."""
    trees = Trees(disk.mount(order.export, f"{directory}/root", f"{directory}/store", order.seeds, found))
    bases = {number: f"{directory}/volumes/{number}" for number in range(len(order.volumes))}
    lazy = [number for number, volume in enumerate(order.volumes) if volume.kind is Kind.LAZY]

    def mount_one(number: int, export: str) -> None:
        mounted = disk.mount(export, f"{bases[number]}/root", f"{bases[number]}/store")
        trees.volumes[order.volumes[number].destination] = mounted

    try:
        if lazy:
            with ThreadPoolExecutor(len(lazy)) as pool:  # each is a program that takes a second to start
                list(pool.map(mount_one, lazy, order.volume_exports))
        for number, volume in enumerate(order.volumes):
            if volume.remade:
                trees.borrowed.append(disk.remount(volume.place, f"{bases[number]}/mount"))
            elif volume.kind is Kind.SKIP:
                disk.make_empty(f"{bases[number]}/empty", directory=volume.place.directory)
    except BaseException:
        trees.discard()
        raise
    return trees


def adopt(disk: Disk, directory: str, volumes: Sequence[Mapping[str, Any]]) -> Trees:
    """The mounts of an earlier run of the agent; VOLUMES as the journal has them."""
    trees = Trees(disk.mounted(f"{directory}/root", f"{directory}/store"))
    for number, volume in enumerate(map(Volume.from_json, volumes)):
        base = f"{directory}/volumes/{number}"
        if volume.kind is Kind.LAZY:
            trees.volumes[volume.destination] = disk.mounted(f"{base}/root", f"{base}/store")
        elif volume.remade:
            trees.borrowed.append(disk.remounted(f"{base}/mount"))
    return trees
