"""A stream that is begun again, from the start, when the link or the server went away."""

from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

from voyfs.core.errors import SourceMalformed
from voyfs.rpc.calls import CallFailed, StreamReader
from voyfs.rpc.loss import Patience

_Item = TypeVar("_Item")

# Answers in a row that are not fit to be read, before they are no accident.
_MALFORMED = 4


class RestartingStream(Generic[_Item]):
    """Its items in order; after a passing failure, or a damaged answer, all of them come once more."""

    def __init__(
        self,
        open_stream: Callable[[], StreamReader[_Item]],
        answered: Callable[[], None],
        failed: Callable[[CallFailed, Patience], Awaitable[None]],
        patience: Patience,
    ) -> None:
        """`failed` returns when it is time to try again, or raises what the failure means."""
        self._open = open_stream
        self._answered = answered
        self._failed = failed
        self._patience = patience
        self._reader: StreamReader[_Item] | None = None
        self._items: list[_Item] = []  # the next one last
        self._malformed = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> _Item:
        if not self._items:
            self._patience.renew()  # the time since the last item was the consumer's own
        while not self._items:
            try:
                if self._reader is None:
                    self._reader = self._open()
                items = await self._reader.batch()
            except CallFailed as failure:
                self.close()
                await self._understood(self._failed(failure, self._patience))
                continue
            except SourceMalformed as error:
                self.close()
                self._forgive(error)
                continue
            self._answered()
            self._patience.renew()
            self._malformed = 0
            if items is None:
                raise StopAsyncIteration
            self._items = items[::-1]
        return self._items.pop()

    async def _understood(self, failed: Awaitable[None]) -> None:
        """A failed call may mean as well that its answer could not be read."""
        try:
            await failed
        except SourceMalformed as error:
            self._forgive(error)

    def _forgive(self, error: SourceMalformed) -> None:
        self._malformed += 1
        if self._malformed == _MALFORMED:
            raise error

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
