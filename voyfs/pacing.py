"""Makes the background keep to a rate, its own and that of all mounts which share one. Demand never comes here."""

import trio

from voyfs.core.bandwidth import Allowance
from voyfs.sharing import Share

# The longest wait for the others' budget before it is looked at again: its rate may have been changed.
LOOK_SECONDS = 0.5


class Pacer:
    """`rate` in bytes a second; 0: as fast as it goes."""

    def __init__(self, rate: int, share: Share | None = None) -> None:
        self._allowance = Allowance(rate)
        self._share = share
        self._changed = trio.Event()

    @property
    def rate(self) -> int:
        return self._allowance.rate

    def change(self, rate: int) -> None:
        """Whoever waits, waits by the new rate at once."""
        self._allowance.change(rate, trio.current_time())
        self._wake()

    async def wait(self) -> None:
        """Returns when something may be sent; without an await, then, if it may be at once."""
        while delay := self._delay():
            with trio.move_on_after(delay):
                await self._changed.wait()

    def spend(self, size: int) -> None:
        """So many bytes are on their way; negative: so many were not, but holes or a seed's."""
        self._allowance.spend(size, trio.current_time())
        if self._share is not None:
            self._share.spend(size)
        if size < 0:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _delay(self) -> float:
        own = self._allowance.delay(trio.current_time())
        return own if own or self._share is None else min(self._share.delay(), LOOK_SECONDS)
