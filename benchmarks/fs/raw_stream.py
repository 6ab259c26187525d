"""A file's bytes over gRPC and nothing else: the rate that a file system over gRPC could have.

`python -m benchmarks.fs.raw_stream serve PORT` and `... read ADDRESS FILE`: one stream of 1 MiB messages, no
checksums, no files at the receiving end. The reader prints its seconds and the bytes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

METHOD: Final = "/raw.Stream/Read"
MESSAGE: Final = 1 << 20
OPTIONS: Final = (("grpc.max_receive_message_length", 8 << 20),)


def _pieces(path: bytes, _: Any) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while piece := file.read(MESSAGE):
            yield piece


class _Handlers(grpc.GenericRpcHandler):
    def service(self, details: Any) -> Any:
        """The one method."""
        return grpc.unary_stream_rpc_method_handler(_pieces) if details.method == METHOD else None


def serve(port: int) -> None:
    """Until it is killed."""
    server = grpc.server(ThreadPoolExecutor(4), handlers=[_Handlers()], options=OPTIONS)
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    print("serves", flush=True)
    server.wait_for_termination()


def read(address: str, path: str) -> None:
    """Receive a file."""
    start = time.monotonic()
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        pieces: Any = channel.unary_stream(METHOD)
        size = sum(len(piece) for piece in pieces(os.fsencode(path)))
    print(f"{time.monotonic() - start:.9f} {size}")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        read(sys.argv[2], sys.argv[3])
