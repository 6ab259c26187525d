"""What the source uses, found among what the store lacks: to be brought before everything else.

A hint of the source and no more: where it says nothing, or something that is no longer so, things come in their
usual order. Knows nothing of how they are brought.
"""

from collections import deque

from voyfs.carrier import Wanted
from voyfs.core.errors import VoyfsError
from voyfs.core.limits import WORKING_SET_FILES
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource, InUse
from voyfs.store.record import Record
from voyfs.store.store import Store
from voyfs.store.tree import ROOT, Node

log = get_logger(__name__)

# Directories populated for it where a walk comes by all of them anyway: each costs a call, of which many would hold up
# the walk, and what is used most comes first.
LISTED = 16

# Files looked up between two moments in which other tasks may run: some 5 ms; also what makes up a job.
SLICE = 64


class WorkingSet:
    def __init__(self, store: Store, source: BlockSource, hydrator: Hydrator, wanted: deque[Wanted]) -> None:
        self._wanted = wanted
        self._store = store
        self._source = source
        self._hydrator = hydrator
        self._listed = 0
        self._place = b"", ROOT  # the directory of the last file: its path, and its inode

    async def ask(self, *, walking: bool, still: bool = False) -> None:
        """Adds to `wanted` what the source says, as it says it.

        While everything is populated by a walk (`walking`), also files that were only read lately. With `still` only
        what nobody can write into.
        """
        progress = self._hydrator.progress
        progress.working_set_bytes = 0
        self._place = b"", ROOT  # what was found before may have been made anew
        room = WORKING_SET_FILES
        try:
            await self._hydrator.attach()
            async with self._source.working_set(b"", still=still) as files:
                async for file in files:
                    if not room or not (file.cached or walking):
                        break
                    room -= 1
                    if room % SLICE == 0:
                        self._hydrator.wake()
                        await self._hydrator.turns.give()
                    if file.cached:
                        progress.working_set_bytes += sum(extent.length for extent in file.extents)
                    record = await self._find(file, walking=walking)
                    if record is not None and not record.complete:
                        self._wanted.append((record.ino, file.extents))
        except (VoyfsError, OSError) as error:
            log.info("the working set is not known", why=str(error))
        self._hydrator.wake()

    async def _find(self, file: InUse, *, walking: bool) -> Record | None:
        """The record of the very file, if it is here under the same names; its directories are populated for that."""
        tree = self._store.tree
        above, _, name = file.path.rpartition(b"/")
        if above != self._place[0]:
            ino = await self._directory(above, walking=walking)
            if ino is None:
                return None
            self._place = above, ino
        directory = tree.node(self._place[1])
        if not await self._populated(directory, walking=walking):
            return None
        try:
            node, _ = tree.child(directory, name)
        except FileNotFoundError:
            return None
        record = node.record
        self._store.names.release(node)
        if record is None or record.source != file.path or record.version != file.version:
            return None
        return record

    async def _directory(self, path: bytes, *, walking: bool) -> int | None:
        tree = self._store.tree
        node = tree.node(ROOT)
        for name in path.split(b"/") if path else ():
            if not await self._populated(node, walking=walking):
                return None
            try:
                node, _ = tree.child(node, name)
            except FileNotFoundError:
                return None
            if not node.is_directory:
                self._store.names.release(node)
                return None
        return node.ino

    async def _populated(self, directory: Node, *, walking: bool) -> bool:
        """Waits until the names in `directory` are known; False if they will not be."""
        hydrator = self._hydrator
        while not self._store.usable(directory):
            if not walking or self._listed < LISTED:
                self._listed += 1
                await hydrator.populate(directory)
            elif hydrator.progress.populated:
                return False
            else:
                await hydrator.changed.wait()
        return True
