"""The host's clock, and the one way of waiting: it ends when the agent does."""

from __future__ import annotations

import threading
import time


class SystemClock:
    """See ports.Clock."""

    def __init__(self) -> None:
        """Nobody has asked the agent to stop."""
        self._stopping = threading.Event()

    def now(self) -> float:
        """Monotonic seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def wait(self, seconds: float) -> bool:
        """Wait; True at once when the agent is being stopped."""
        return self._stopping.wait(seconds)

    def stop(self) -> None:
        """The agent is being stopped: all waiting ends."""
        self._stopping.set()
