"""A warm mount, until its source has come to rest: what is brought early, and how it is corrected at the end."""

import trio

from voyfs.background import Background
from voyfs.core.errors import SourceError
from voyfs.hydrator import Hydrator
from voyfs.logs import get_logger
from voyfs.ports import BlockSource
from voyfs.refresh import Forget, Refreshed, refresh
from voyfs.store.store import Store

log = get_logger(__name__)

# How long a mount waits for the source to begin to keep what changes.
WATCH_SECONDS = 5.0


class Warming:
    def __init__(
        self, store: Store, hydrator: Hydrator, background: Background, source: BlockSource, forget: Forget
    ) -> None:
        self._store = store
        self._hydrator = hydrator
        self._background = background
        self._source = source
        self._forget = forget
        self._mark = b""  # to ask with for what has changed; empty where the source does not keep it
        self._alone = trio.Lock()
        self._scope = trio.CancelScope()

    @property
    def tracked(self) -> bool:
        """Whether the source keeps what changes, for a refresh."""
        return bool(self._mark)

    async def watch(self) -> None:
        """Has the source keep what changes from now on, if it can, and if nothing of it is known here yet."""
        if self._store.records.directories(populated=True):
            return
        try:
            with trio.fail_after(WATCH_SECONDS):
                self._mark = await self._source.watch()
        except (SourceError, trio.TooSlowError) as error:
            log.info("the source does not keep what changes", why=str(error))
        else:
            log.info("the source keeps what changes")  # now, for the first line of a log costs time: not at the freeze

    async def unwatch(self) -> None:
        """There will be no refresh: the source need not keep what changes."""
        mark, self._mark = self._mark, b""
        try:
            if mark:
                await self._source.changes(mark)
        except SourceError as error:
            log.info("the source was not told that nobody asks for changes", why=str(error))

    async def bring(self, names: float, used: float) -> None:
        """Brings names, then what the source uses, for so many seconds each; a refresh ends it."""
        async with self._alone:
            with trio.CancelScope() as self._scope:
                if names:
                    await self._background.bring_names(names)
                if used:
                    await self._background.bring_working_set(used, still=self.tracked)

    async def refresh(self, again: list[bytes]) -> Refreshed:
        """See `voyfs.refresh`; the mark is good for one."""
        self._scope.cancel()
        async with self._alone:  # what it had under way, the source said before it came to rest
            mark, self._mark = self._mark, b""
            return await refresh(self._store, self._hydrator, self._source, self._forget, mark, again)
