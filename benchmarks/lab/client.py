"""An outside user of a container: counts in redis over one TCP connection, and notes each reply's time.

Run as a program on a host of its own (standard library alone, no sibling imported). Writes JSON lines on stdout:
progress now and then, and at SIGTERM the report. A bug of the server's and one of ours look alike from here, so it
trusts nothing: each reply must be exactly the one before plus one, which a lost, repeated or rolled-back write is not.
"""

from __future__ import annotations

import argparse
import json
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

MAX_ERRORS = 20  # enough to see what went wrong; a broken server must not fill the memory
RETRY_SECONDS = 0.05
SILENCE_SECONDS = 30.0  # a reply this late is an error: TCP itself would wait a quarter of an hour


class Stop(BaseException):
    """SIGTERM came; raised wherever the client is, mostly in recv."""


@dataclass
class Report:
    """What the client saw. Times are milliseconds since the first connection was made."""

    count: int = 0  # replies
    first: int = 0  # values of the first and the last reply
    last: int = 0
    gap_ms: float = 0.0  # longest time between two replies, or since the last one
    gap_at_ms: float = 0.0  # when that gap began
    connections: int = 0
    errors: list[str] = field(default_factory=list)
    done: bool = False
    seconds: float = 0.0
    times_ms: list[float] = field(default_factory=list)  # of every reply, if asked for

    @property
    def unbroken(self) -> bool:
        """Whether a user of the container would have noticed nothing but a delay."""
        return self.count > 0 and self.connections == 1 and not self.errors


class Counter:
    """The client's loop."""

    def __init__(self, options: argparse.Namespace) -> None:
        """OPTIONS: see `main`."""
        self.options = options
        self.report = Report()
        self.start = time.perf_counter()
        self.previous_at: float | None = None
        self.progress_at = 0.0
        key = options.key.encode()
        self.request = b"*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n" % (len(key), key)

    def run(self) -> None:
        """Count until stopped, reconnecting (which the report shows) when a connection breaks."""
        try:
            while True:
                try:
                    self.session()
                except (OSError, ValueError) as error:
                    self.error(f"{type(error).__name__}: {error}")
                    time.sleep(RETRY_SECONDS)
        except Stop:
            self.note_gap(time.perf_counter())  # a gap that lasts to the end is a gap
            self.report.done = True
            self.emit(time.perf_counter())

    def session(self) -> None:
        """One connection, for as long as it lasts."""
        address = (self.options.address, self.options.port)
        with socket.create_connection(address, timeout=SILENCE_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.report.connections == 0:
                self.start = time.perf_counter()
            self.report.connections += 1
            buffer = b""
            while True:
                connection.sendall(self.request)
                while b"\r\n" not in buffer:
                    received = connection.recv(4096)
                    if not received:
                        raise ConnectionError("the server closed the connection")
                    buffer += received
                line, _, buffer = buffer.partition(b"\r\n")
                if not line.startswith(b":"):
                    raise ValueError(f"unexpected reply {line[:100]!r}")
                self.reply(int(line[1:]))
                time.sleep(self.options.pause)

    def reply(self, value: int) -> None:
        """Note one reply."""
        now = time.perf_counter()
        report = self.report
        if report.count == 0:
            report.first = value
        elif value != report.last + 1:
            self.error(f"reply {value} after {report.last}")
        report.count += 1
        report.last = value
        self.note_gap(now)
        self.previous_at = now
        if self.options.times:
            report.times_ms.append(round((now - self.start) * 1000, 3))
        if now - self.progress_at >= self.options.progress:
            self.emit(now)

    def note_gap(self, now: float) -> None:
        """Keep the longest silence."""
        if self.previous_at is not None:
            gap = (now - self.previous_at) * 1000
            if gap > self.report.gap_ms:
                self.report.gap_ms = round(gap, 3)
                self.report.gap_at_ms = round((self.previous_at - self.start) * 1000, 3)

    def error(self, text: str) -> None:
        """Keep the first few errors."""
        if len(self.report.errors) < MAX_ERRORS:
            self.report.errors.append(text)
            self.emit(time.perf_counter())

    def emit(self, now: float) -> None:
        """Write a line: the report so far; the long list of times only in the last one."""
        self.progress_at = now
        self.report.seconds = round(now - self.start, 3)
        line = asdict(self.report)
        if not self.report.done:
            del line["times_ms"]
        print(json.dumps(line), flush=True)


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut the report short
    raise Stop


def main() -> int:
    """Exit status 0 if the report says `unbroken`, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("--key", default="voyager")
    parser.add_argument("--pause", type=float, default=0.001, help="seconds between a reply and the next request")
    parser.add_argument("--progress", type=float, default=0.05, help="seconds between lines of progress")
    parser.add_argument("--times", action="store_true", help="report the time of every reply")
    counter = Counter(parser.parse_args())
    signal.signal(signal.SIGTERM, _stop)
    counter.run()
    return 0 if counter.report.unbroken else 1


if __name__ == "__main__":
    sys.exit(main())
