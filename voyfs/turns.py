"""Who goes first in the daemon's one thread: whoever uses the mount, and then the background, in short slices of work.

A program's calls that need nothing from the source would else wait for several of the background's steps each, and a
server that writes to its log would answer ten times slower for as long as hydration lasts.
"""

import trio

# The background works for so long before others have their turn: so many rounds of the loop, in which a call arrives,
# is carried out and answered.
SLICE_SECONDS = 0.002
ROUNDS = 8

# Who called so lately may call again soon.
IN_USE_SECONDS = 0.05


class Turns:
    def __init__(self) -> None:
        self._called = -IN_USE_SECONDS
        self._worked = 0.0  # seconds, by all of the background since the last turn of others
        self._next = trio.Lock()

    def called(self) -> None:
        """A program uses the mount."""
        self._called = trio.current_time()

    async def give(self, worked: float = SLICE_SECONDS) -> None:
        """For the background, after it has `worked` so many seconds: lets others go first once that is enough."""
        self._worked += worked
        if self._worked < SLICE_SECONDS or trio.current_time() - self._called > IN_USE_SECONDS:
            await trio.lowlevel.checkpoint()
            return
        async with self._next:  # or all tasks of the background would go on at once
            self._worked = 0.0
            for _ in range(ROUNDS):
                await trio.lowlevel.checkpoint()
