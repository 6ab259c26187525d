"""The agent's log: lines on stderr, which never stand in the way of what they tell of.

A full disk or a reader that went away loses lines, and nothing else. It must not know who logs.
"""

from __future__ import annotations

import contextlib
import sys
from typing import TextIO

import structlog


class Quiet:
    """A text stream that loses what cannot be written."""

    def __init__(self, stream: TextIO) -> None:
        """STREAM stays the owner's."""
        self._stream = stream

    def write(self, text: str) -> int:
        """All of TEXT is taken, written or lost."""
        with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed, or cannot encode the text
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """As far as it can be."""
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


def configure() -> None:
    """For the whole process, once."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer() if not sys.stderr.isatty() else structlog.dev.ConsoleRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(Quiet(sys.stderr)),  # type: ignore[arg-type]
    )
