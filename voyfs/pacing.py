"""Makes the background keep to a rate. Demand never comes here."""

import trio

from voyfs.core.bandwidth import Allowance


class Pacer:
    """`rate` in bytes a second; 0: as fast as it goes."""

    def __init__(self, rate: int) -> None:
        self._allowance = Allowance(rate)
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
        while delay := self._allowance.delay(trio.current_time()):
            with trio.move_on_after(delay):
                await self._changed.wait()

    def spend(self, size: int) -> None:
        """So many bytes are on their way; negative: so many were not, but holes or a seed's."""
        self._allowance.spend(size, trio.current_time())
        if size < 0:
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
