"""Brings whole files that are asked for by name, and tells how far that is.

Names first, as many as there are: how much is to come is known long before it has come. It must not know who asks.
"""

import os
from collections.abc import Sequence
from typing import Any

import trio

from voyfs.core.errors import SourceError
from voyfs.core.presence import Presence
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.store.store import Store
from voyfs.store.tree import Node
from voyfs.vfs import Vfs

log = get_logger(__name__)

# Names looked up at the same time, and files brought at the same time; each has a call to the source under way.
LOOK_UPS = 8
FILES = 8


class Prefetching:
    """What was asked for last; several may ask at once."""

    def __init__(self, store: Store, vfs: Vfs, hydrator: Hydrator) -> None:
        self._store = store
        self._vfs = vfs
        self._hydrator = hydrator
        self._files: dict[int, Presence] = {}  # by inode
        self._unknown = 0  # names that are not looked up yet
        self._running = 0

    async def bring(self, paths: Sequence[bytes]) -> int:
        """Number of files that are here; what does not exist or cannot be had is passed over."""
        if not self._running:
            self._files.clear()
        self._running += 1
        self._unknown += len(paths)
        brought = 0
        names, files = trio.CapacityLimiter(LOOK_UPS), trio.CapacityLimiter(FILES)

        async def bring(path: bytes) -> None:
            nonlocal brought
            try:
                node = await self._look_up(path, names)
                try:
                    async with files:
                        await self._hydrator.bring(node)
                finally:
                    node.held -= 1
                    self._store.names.release(node)
            except (OSError, SourceError) as error:
                log.info("not prefetched", path=os.fsdecode(path), why=str(error))
            else:
                brought += 1

        try:
            async with trio.open_nursery() as nursery:
                for path in paths:
                    nursery.start_soon(bring, path)
        finally:
            self._running -= 1
        return brought

    async def _look_up(self, path: bytes, limit: trio.CapacityLimiter) -> Node:
        """The node, held."""
        try:
            async with limit:
                node = await self._vfs.resolve(path)
                node.held += 1
        finally:
            self._unknown -= 1
        if node.record is not None and node.record.presence is not None:
            self._files[node.ino] = node.record.presence
        return node

    def status(self, rate: float) -> dict[str, Any]:
        """How far it is; RATE in bytes a second, at which all of this mount comes."""
        total = sum(presence.limit for presence in self._files.values())
        missing = sum(presence.absent_bytes for presence in self._files.values())
        known = not self._unknown and (rate > 0 or not missing)
        return {
            "bytes": {"present": total - missing, "total": total},
            "files": {
                "present": sum(presence.complete for presence in self._files.values()),
                "total": len(self._files),
            },
            "eta_s": round(missing / (rate or 1.0), 1) if known else None,
        }
