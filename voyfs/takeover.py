"""How a daemon takes over a FUSE connection that is up, and what the last one left unanswered.

libfuse answers nothing until it has seen an INIT, and the kernel sends only one, which the
supervisor has answered (see `handshake`). So libfuse is given one end of a socket pair with a
made-up INIT in it, and the real descriptor takes the socket's place. The answer to the made-up
INIT goes to the kernel with a number that no request has, which the kernel refuses and libfuse
ignores.
"""

import ctypes
import errno
import os
import select
import socket
import struct
from collections.abc import Iterator

import trio

from voyfs.core.changes import Change
from voyfs.handshake import HEADER_IN, HEADER_OUT, INIT_IN, MAJOR, MAX_WRITE, MINOR, OP_INIT
from voyfs.syscalls import keep_freed_memory

_OP_FORGET = 2
# Calls that must not be carried out twice: what they are, and the size of what precedes their names.
_CHANGES = {
    35: (Change.CREATE, 16),
    9: (Change.MKDIR, 8),
    8: (Change.MKNOD, 16),
    6: (Change.SYMLINK, 0),
    13: (Change.LINK, 8),
    10: (Change.UNLINK, 0),
    11: (Change.RMDIR, 0),
    12: (Change.RENAME, 8),
    45: (Change.RENAME, 16),
    21: (Change.CREATE_XATTR, 8),
    24: (Change.REMOVE_XATTR, 0),
}
_XATTR_CREATE = 1
_UNIQUE_RESEND = 1 << 63

# A node number that no file has; see StandIn.
MARKER = (1 << 64) - 1

Resent = tuple[Change, int, bytes]

_NOTIFY_RESEND = 7

# Capabilities that libfuse must not believe in: an extended INIT.
_UNWANTED = 1 << 30

# What libfuse is told that the kernel speaks. From 14 on it reads requests into a pipe (splice) and from there into
# memory: two calls for one, for what Python copies anyway. None of what it handles differs between 13 and MINOR.
_TOLD_MINOR = 13
assert _TOLD_MINOR <= MINOR

_READ_BYTES = MAX_WRITE + (1 << 16)

# Buffers for calls that are kept in memory: pyfuse3 has 8 tasks that read when all is quiet, and one more for each
# call that waits. Beyond these, a kill at the very moment when a buffer is first used may cost its caller an EIO.
_BUFFERS = 16
_MAX_AGAIN = 4096  # more calls than the kernel lets this connection have under way
_SO_SNDBUFFORCE = 32


class StandIn:
    """The socket that libfuse is started on; the real descriptor takes its place.

    For a first daemon that happens at libfuse's INIT. A later one first gets, through the socket, the calls that
    the kernel sends again, which are looked at on their way; the replacement comes after the last of them, when
    libfuse handles the made-up FORGET of MARKER. (It must happen inside a handler: only then is nobody waiting
    for the old descriptor to become readable.)
    """

    def __init__(self, descriptor: int, *, taking_over: bool) -> None:
        self._real = descriptor
        self._taking_over = taking_over
        self._socket, self._feeder = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, self._feeder):
            _enlarge(end)
        self._again: list[bytes] = []
        self.resends = True  # whether the kernel can
        body = INIT_IN.pack(*(MAJOR, _TOLD_MINOR, MAX_WRITE, 0xFFFFFFFF & ~_UNWANTED, 0), *([0] * 11))
        self._feeder.send(_request(OP_INIT, 0, body))

    @property
    def mountpoint(self) -> str:
        """What libfuse is told to mount at: it takes this as a descriptor that is mounted."""
        return f"/dev/fd/{self._socket.fileno()}"

    def initialised(self) -> list[Resent]:
        """To be called when libfuse handles INIT; gives what the kernel sends again and must not be done twice."""
        self.resends = _resend(self._real)  # asked by a first daemon too, so that its user is told
        if not self._taking_over:
            self.replace()
            return []
        ready = select.poll()
        ready.register(self._real, select.POLLIN)
        buffer = bytearray(b"\1") * _READ_BYTES  # written to, hence resident: see keep_buffers_resident
        # What is sent again comes before anything new; a few new calls in between do no harm.
        while ready.poll(0) and len(self._again) < _MAX_AGAIN:
            size = os.readv(self._real, [buffer])
            self._again.append(bytes(memoryview(buffer)[:size]))
        return [resent for raw in self._again for resent in _resent(raw)]

    async def feed(self) -> None:
        """Passes on the calls that were sent again, and their answers, until the replacement is done."""
        if not self._taking_over:
            self._feeder.close()
            return
        feeder = trio.socket.from_stdlib_socket(self._feeder)

        async def answers() -> None:
            while answer := await feeder.recv(_READ_BYTES):
                try:
                    os.write(self._real, answer)
                except FileNotFoundError:
                    pass  # nobody waits for it any more (or it is the answer to the made-up INIT)

        with feeder:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answers)
                for raw in self._again:
                    await feeder.send(raw)
                self._again.clear()
                await feeder.send(_request(_OP_FORGET, MARKER, struct.pack("<Q", 1)))

    def replace(self) -> None:
        os.dup2(self._real, self._socket.fileno(), inheritable=False)


def keep_buffers_resident() -> None:
    """To be called before libfuse is: the memory that it will read calls into is resident from now on.

    Where a reader of the connection is killed while the kernel copies a call into a page that it must first provide,
    the kernel gives up and fails the *caller* with EIO (fuse_dev_do_read). Into resident pages it copies to the end,
    and the call is sent again. libfuse takes its buffers from malloc, so malloc is given the pages beforehand, and told
    to take the buffers from there and to return nothing.
    """
    size = _BUFFERS * _READ_BYTES
    keep_freed_memory(4 * size)
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)


def _enlarge(end: socket.socket) -> None:
    """Room for the largest request in one packet."""
    try:
        end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, 4 * MAX_WRITE)
    except PermissionError:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MAX_WRITE)


def _request(opcode: int, node: int, body: bytes) -> bytes:
    return HEADER_IN.pack(HEADER_IN.size + len(body), opcode, 2, node, 0, 0, 0, 0, 0) + body


def _resend(descriptor: int) -> bool:
    """Asks the kernel to send again what a dead daemon had read but not answered.

    False where the kernel cannot (before Linux 6.9): those calls wait until interrupted.
    """
    try:
        os.write(descriptor, HEADER_OUT.pack(HEADER_OUT.size, _NOTIFY_RESEND, 0))
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS):
            return False
        raise
    return True


def _resent(raw: bytes) -> Iterator[Resent]:
    """What a request changes, if it is one that is sent again and must not be carried out twice."""
    _, opcode, unique, node, *_ = HEADER_IN.unpack_from(raw)
    if not unique & _UNIQUE_RESEND or opcode not in _CHANGES:
        return
    change, fixed = _CHANGES[opcode]
    body = raw[HEADER_IN.size :]
    first, _, rest = body[fixed:].partition(b"\0")
    if change is Change.RENAME:
        yield change, node, first + b"/" + rest.partition(b"\0")[0]
    elif change is not Change.CREATE_XATTR or int.from_bytes(body[4:8], "little") & _XATTR_CREATE:
        yield change, node, first
