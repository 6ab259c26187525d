"""A client that downloads: slowly until a line comes on stdin, then as fast as it can. Run on a host of its own.

Writes how many bytes it has on stdout, a line each MiB; the last line is the digest of all.
"""

from __future__ import annotations

import hashlib
import http.client
import select
import sys

MIB = 1 << 20
SLOWLY = 0.02  # seconds a MiB
SILENCE_SECONDS = 60.0


def main() -> None:
    """Arguments: address, port, path."""
    address, port, path = sys.argv[1:]
    connection = http.client.HTTPConnection(address, int(port), timeout=SILENCE_SECONDS)
    connection.request("GET", path)
    response = connection.getresponse()
    digest = hashlib.sha256()
    had = 0
    slow = True
    while block := response.read(MIB):
        digest.update(block)
        had += len(block)
        print(had, flush=True)
        if slow and select.select([sys.stdin], [], [], SLOWLY)[0]:
            slow = False
    print(response.status, digest.hexdigest(), flush=True)


if __name__ == "__main__":
    main()
