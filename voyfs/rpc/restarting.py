"""A stream that is begun again, from the start, when the link or the server went away."""

from collections.abc import Awaitable, Callable
from typing import Generic, Self, TypeVar

from voyfs.rpc.calls import CallFailed, StreamReader
from voyfs.rpc.loss import Patience

_Item = TypeVar("_Item")


class RestartingStream(Generic[_Item]):
    """Its items in order; after a passing failure all of them come once more."""

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
                await self._failed(failure, self._patience)
                continue
            self._answered()
            self._patience.renew()
            if items is None:
                raise StopAsyncIteration
            self._items = items[::-1]
        return self._items.pop()

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
