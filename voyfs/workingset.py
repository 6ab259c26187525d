"""What the source uses, found among what the store lacks: to be brought before everything else.

A hint of the source and no more: where it says nothing, or something that is no longer so, things come in their
usual order. Knows nothing of how they are brought.
"""

from collections import deque

import trio

from voyfs.carrier import Wanted
from voyfs.core.errors import VoyfsError
from voyfs.core.limits import WORKING_SET_FILES
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource, InUse
from voyfs.store.record import Record
from voyfs.store.store import Store
from voyfs.store.tree import ROOT

log = get_logger(__name__)

# Files looked up between two moments in which other tasks may run: some 5 ms; also what makes up a job.
SLICE = 64


class WorkingSet:
    def __init__(self, store: Store, source: BlockSource, hydrator: Hydrator, wanted: deque[Wanted]) -> None:
        self._wanted = wanted
        self._store = store
        self._source = source
        self._hydrator = hydrator

    async def ask(self, *, lately: bool) -> None:
        """Adds to `wanted` what the source says, as it says it; with `lately` also files that were only read lately."""
        progress = self._hydrator.progress
        progress.working_set_bytes = 0
        room = WORKING_SET_FILES
        try:
            await self._hydrator.attach()
            async with self._source.working_set(b"") as files:
                async for file in files:
                    if not room or not (file.cached or lately):
                        break
                    room -= 1
                    if room % SLICE == 0:
                        self._hydrator.wake()
                        await trio.lowlevel.checkpoint()
                    if file.cached:
                        progress.working_set_bytes += sum(extent.length for extent in file.extents)
                    record = await self._find(file)
                    if record is not None and not record.complete:
                        self._wanted.append((record.ino, file.extents))
        except (VoyfsError, OSError) as error:
            log.info("the working set is not known", why=str(error))
        self._hydrator.wake()

    async def _find(self, file: InUse) -> Record | None:
        """The record of the very file, if it is here under the same names; its directories are populated for that."""
        tree = self._store.tree
        ino = ROOT
        for name in file.path.split(b"/"):
            directory = tree.node(ino)
            if not directory.is_directory:
                return None
            if not self._store.usable(directory):
                await self._hydrator.populate(directory)
                directory = tree.node(ino)
            try:
                node, _ = tree.child(directory, name)
            except FileNotFoundError:
                return None
            ino = node.ino
        record = node.record
        self._store.names.release(node)
        if record is None or record.source != file.path or record.version != file.version:
            return None
        return record
