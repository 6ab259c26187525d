"""Makes an interrupted run clean up: both ctrl-C and SIGTERM unwind the stack once, and then no more."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn


class Interrupted(BaseException):
    """A signal came; not an Exception, so that nothing takes it for a failure that it can handle."""

    def __init__(self, number: int) -> None:
        """NUMBER: of the signal."""
        super().__init__(signal.Signals(number).name)
        self.number = number


def _raise(number: int, _: Any) -> NoReturn:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # cleaning up takes a second or two; impatience must not break it
    raise Interrupted(number)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Within, a signal ends the program with the status that shells expect, after all clean-up was done."""
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, _raise)
    try:
        yield
    except Interrupted as stop:
        print(f"\n{stop}: everything was removed", file=sys.stderr)
        sys.exit(128 + stop.number)
