"""The bulk process: `python -m voyfs.bulk`, with a socket to its owner as standard input.

Ends when the owner closes the socket or dies. Only `voyfs.bulk.lane` starts it.
"""

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Sequence

from voyfs.bulk.frames import Setup, decode_jobs, decode_setup, encode_outcomes
from voyfs.bulk.landing import Landing
from voyfs.core.limits import KEPT_BYTES
from voyfs.ports import FileDone
from voyfs.rpc.address import parse_address
from voyfs.rpc.channel import open_channel
from voyfs.rpc.stream import BulkStream, Report
from voyfs.seeds import Seeds
from voyfs.syscalls import keep_freed_memory

_PR_SET_PDEATHSIG = 1
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30}
_IOPRIO_WHO_PROCESS = 1
_IOPRIO_IDLE = 3 << 13
_NICE = 10


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's is for the owner to handle
    # The socket tells of the owner's end too, but not while a write to a full disk hangs.
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    keep_freed_memory(KEPT_BYTES)
    owner = socket.socket(fileno=0)
    lines = owner.makefile("rb")
    setup = decode_setup(lines.readline())
    if setup.idle:
        _give_way(libc)
    sending = threading.Lock()

    def report(number: int, outcomes: Sequence[FileDone]) -> None:
        try:
            with sending:
                owner.sendall(encode_outcomes(number, outcomes))
        except OSError:
            os._exit(0)  # the owner is gone

    stream = _stream(setup, report)
    for line in lines:
        stream.submit(*decode_jobs(line))
    # Not through gRPC's orderly end: it would wait for calls whose outcome nobody wants.
    os._exit(0)


def _stream(setup: Setup, report: Report) -> BulkStream:
    channel = open_channel(parse_address(setup.address), setup.tls, setup.server_name, bulk=setup.idle)
    return BulkStream(channel, Landing(setup.data), Seeds(setup.seeds), report)


def _give_way(libc: ctypes.CDLL) -> None:
    """Takes processor and disk only when nobody else wants them, as far as the host has that."""
    os.nice(_NICE)
    call = _IOPRIO_SET.get(os.uname().machine)
    if call is not None:
        libc.syscall(call, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


if __name__ == "__main__":
    main()
