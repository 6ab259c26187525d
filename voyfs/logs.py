"""How the programs log: one line an event on stderr, for people at a terminal, JSON elsewhere.

Importing structlog takes a tenth of the time in which a mount is to answer, and a mount that goes
well logs nothing until then, unless it is a warm one: it is loaded by the first line that is logged.
"""

import sys
from typing import Any


class Logger:
    """A structlog logger that comes into being when it is used.

    A line that cannot be written (the log is on the disk that is full) stops nobody's work.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, method: str) -> Any:
        import structlog

        if not structlog.is_configured():
            _configure()
        write = getattr(structlog.get_logger(self._name), method)

        def log(event: str, **values: Any) -> None:
            try:
                write(event, **values)
            except OSError:
                pass

        return log


def load() -> None:
    """What the first line needs. For a thread, where others are not to wait for it."""
    import structlog  # noqa: F401


def get_logger(name: str) -> Logger:
    """The logger of module `name`."""
    return Logger(name)


def _configure() -> None:
    import structlog

    renderer: structlog.types.Processor
    if sys.stderr.isatty():
        renderer = structlog.dev.ConsoleRenderer()
    else:
        renderer = structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
