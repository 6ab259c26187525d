"""A service of many threads, run in a container: counts for its clients, as redis would, and writes down each count.

A thread serves each connection, another writes; they meet in a queue, a lock and futures. A client is answered when
its count is on the disk.
"""

from __future__ import annotations

import os
import queue
import socketserver
import sys
import threading
from concurrent.futures import Future

counts: dict[bytes, int] = {}
lock = threading.Lock()
written: queue.Queue[tuple[bytes, int, Future[None]]] = queue.Queue()


class Session(socketserver.StreamRequestHandler):
    """A connection: INCR alone, see benchmarks.lab.client."""

    def handle(self) -> None:
        """Serve until the client has gone."""
        served = 0  # this thread's own
        while request := [self.rfile.readline() for _ in range(5)]:
            if not request[0]:
                return
            key = request[4].strip()
            done: Future[None] = Future()
            with lock:
                counts[key] = value = counts.get(key, 0) + 1
                written.put((key, value, done))
            done.result()
            served += 1
            self.wfile.write(b":%d\r\n" % served)


class Server(socketserver.ThreadingTCPServer):
    """A thread each connection."""

    allow_reuse_address = True
    daemon_threads = True


def write(path: str) -> None:
    """What is in the queue, for ever; several at once where they wait."""
    with open(path, "ab", buffering=0) as file:
        while True:
            batch = [written.get()]
            while not written.empty():
                batch.append(written.get())
            file.write(b"".join(b"%s %d\n" % (key, value) for key, value, _ in batch))
            os.fsync(file.fileno())
            for _, _, done in batch:
                done.set_result(None)


def main() -> None:
    """Arguments: port, file."""
    threading.Thread(target=write, args=(sys.argv[2],), daemon=True).start()
    with Server(("", int(sys.argv[1])), Session) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
