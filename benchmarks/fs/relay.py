"""A longer wire: passes TCP connections on, every byte after half a round trip, in both directions.

`python -m benchmarks.fs.relay LISTEN_PORT TARGET_PORT RTT_MS`, all on 127.0.0.1; one line when it listens. It models
distance alone: the line holds as much as is under way, so neither a window nor its own work limits the rate.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import time
from collections import deque
from typing import Final

PIECE: Final = 1 << 20
LINE: Final = 64 << 20  # under way in one direction: 4.5 GB/s at 14 ms
SOCKET_BUFFER: Final = 4 << 20


class Way:
    """One direction of one connection."""

    def __init__(self, source: socket.socket, sink: socket.socket, delay: float) -> None:
        """DELAY in seconds."""
        self.source = source
        self.sink = sink
        self.delay = delay
        self.line: deque[tuple[float, memoryview]] = deque()  # when it is due, what; an empty one is the end
        self.held = 0
        self.ended = False
        self.closed = False

    def take(self) -> None:
        """Read what has come."""
        try:
            data = self.source.recv(PIECE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.ended = not data
        self.held += len(data)
        self.line.append((time.monotonic() + self.delay, memoryview(data)))

    def give(self, now: float) -> bool:
        """Send what is due; False when the sink takes no more for the moment."""
        while self.line and self.line[0][0] <= now:
            due, data = self.line[0]
            if not data:
                with contextlib.suppress(OSError):
                    self.sink.shutdown(socket.SHUT_WR)
                self.line.clear()
                self.closed = True
                return True
            try:
                sent = self.sink.send(data)
            except BlockingIOError:
                return False
            except OSError:
                self.line.clear()
                self.ended = self.closed = True
                return True
            self.held -= sent
            if sent < len(data):
                self.line[0] = due, data[sent:]
                return False
            self.line.popleft()
        return True


class Relay:
    """Listens on one port and passes each connection on to another."""

    def __init__(self, listen: int, target: int, rtt_ms: float) -> None:
        """Ports on 127.0.0.1; port 0 for LISTEN is a free one."""
        self._target = target
        self._delay = rtt_ms / 2000
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", listen), backlog=64)
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._ways: list[Way] = []
        self._wanted: dict[socket.socket, int] = {}

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    def run(self) -> None:
        """Until it is killed."""
        while True:
            self.step()

    def step(self, longest: float = 1.0) -> None:
        """What can be done now, after waiting for something, at most LONGEST seconds."""
        for key, mask in self._selector.select(self._wait(longest)):
            if key.fileobj is self._listener:
                self._accept()
            elif mask & selectors.EVENT_READ:
                next(way for way in self._ways if way.source is key.fileobj).take()
        now = time.monotonic()
        full = {way.sink for way in self._ways if not way.give(now)}
        self._watch(full)

    def _wait(self, longest: float) -> float:
        # A way whose sink is full is due already, but its turn comes with the sink's.
        now = time.monotonic()
        dues = [way.line[0][0] - now for way in self._ways if way.line and not self._full(way)]
        return max(0.0, min(dues, default=longest))

    def _full(self, way: Way) -> bool:
        return bool(self._wanted.get(way.sink, 0) & selectors.EVENT_WRITE)

    def _accept(self) -> None:
        near, _ = self._listener.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            near.close()
            return
        for each in (near, far):
            each.setblocking(False)
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER)
        self._ways += [Way(near, far, self._delay), Way(far, near, self._delay)]

    def _watch(self, full: set[socket.socket]) -> None:
        done = {way.source for way in self._ways if way.closed}
        gone = [way for way in self._ways if way.closed and way.sink in done]
        for way in gone:
            self._want(way.source, 0)
            self._want(way.sink, 0)
            way.source.close()
        self._ways = [way for way in self._ways if way not in gone]
        for way in self._ways:
            reads = not way.ended and way.held < LINE
            mask = (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if way.source in full else 0)
            self._want(way.source, mask)

    def _want(self, which: socket.socket, mask: int) -> None:
        before = self._wanted.get(which, 0)
        if mask == before:
            return
        if not before:
            self._selector.register(which, mask)
        elif mask:
            self._selector.modify(which, mask)
        else:
            self._selector.unregister(which)
        if mask:
            self._wanted[which] = mask
        else:
            self._wanted.pop(which, None)


def main() -> None:
    """Run one."""
    relay = Relay(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
    print(f"relays {relay.port}", flush=True)
    relay.run()


if __name__ == "__main__":
    main()
