"""Holds the frames for a container while it is on its way, and lets them go into it once it runs.

Without this, a client's lost segments come again with doubling pauses, and it sees three times the freeze. It works
in the container's new namespace on the target, and on the host's end of its pair:

* Rules in the namespace drop what comes in and what its kernel would send, so nothing there answers or speaks before
  the commit. Our own announcement is a raw frame, and passes.
* A packet socket on the host's end keeps a copy of each frame that leaves towards the container. Its buffer, bounded,
  is the store; there is no thread. Frames carry their offload state with them (PACKET_VNET_HDR), for those that have
  crossed no wire may have no checksum yet, or be larger than the MTU.

It must not know of migrations.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import subprocess
import time
from typing import Final

from migrator.core.errors import NetworkFailed
from migrator.netlink import Namespace

TABLE: Final = "migrator-hold"
RULES: Final = """\
table netdev {table} {{
    chain incoming {{ type filter hook ingress device "{interface}" priority 0; policy drop;
    }}
}}
table inet {table} {{
    chain outgoing {{ type filter hook output priority -400; policy drop;
    }}
}}
"""
# linux/netlink.h, linux/netfilter.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
NETLINK_NETFILTER: Final = 12
NLMSG_ERROR: Final = 2
NLM_F_REQUEST, NLM_F_ACK = 1, 4
NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END = 0x10, 0x11
NFNL_SUBSYS_NFTABLES: Final = 10
NFT_MSG_DELTABLE, NFT_MSG_NEWCHAIN = 2, 3
NFTA_TABLE_NAME, NFTA_CHAIN_NAME, NFTA_CHAIN_POLICY = 1, 3, 5
NFPROTO_INET, NFPROTO_NETDEV = 1, 5
NF_ACCEPT: Final = 1
NL_HEADER: Final = struct.Struct("IHHII")
NLA_HEADER: Final = struct.Struct("HH")

# What a busy connection can have on its way: a window of 4 MiB and its retransmissions. The kernel counts a frame with
# its overhead, hence the factor.
HELD_BYTES: Final = 2 * 16 * 1024 * 1024
FRAME_BYTES: Final = 65536 + 512  # the largest that segmentation offload makes, with headers

SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15
SO_RCVBUFFORCE: Final = 33
ETH_P_ALL: Final = 3
PACKET_OUTGOING: Final = 4
SO_TIMESTAMPNS: Final = 35
VNET_HEADER: Final = 10
TIMESPEC: Final = struct.Struct("qq")


class Hold:
    """Closed from the start; `catch` begins to hold, `let_go` ends it."""

    def __init__(self, inside: Namespace, outside: Namespace, interface: str, port: str) -> None:
        """INTERFACE: the container's, in INSIDE; PORT: the host's end. Raises NetworkFailed."""
        self._port = port
        self.rules = Rules(inside)
        self._socket: socket.socket | None = None
        try:
            self.rules.close_network(interface)
            self._socket = outside.call(_socket, "making a packet socket")
        except NetworkFailed:
            self.close()
            raise

    def catch(self) -> None:
        """Quick. Hold from now on; the port must be up."""
        assert self._socket is not None
        try:
            self._socket.bind((self._port, ETH_P_ALL))
        except OSError as error:
            raise NetworkFailed(f"cannot hold frames on {self._port}: {error.strerror}") from error

    def let_go(self) -> int:
        """Quick. Open the container's namespace and send the held frames into it; their number."""
        frames = self._frames()
        self.rules.open_network()
        frames += self._frames()  # between the two, they came in directly as well: TCP ignores the second copy
        assert self._socket is not None
        for frame in frames:
            try:
                self._socket.send(frame)
            except OSError:
                continue  # as if the network had lost it
        return len(frames)

    def answered(self, seconds: float) -> float | None:
        """How many seconds ago the container first sent data since `let_go`; waits for it up to SECONDS.

        Frames without data do not count: the kernel acknowledges what was held before any task has seen it.
        """
        assert self._socket is not None
        deadline = time.monotonic() + seconds
        while select.select([self._socket], [], [], max(deadline - time.monotonic(), 0))[0]:
            try:
                frame, ancillary, _, address = self._socket.recvmsg(FRAME_BYTES, socket.CMSG_SPACE(TIMESPEC.size))
            except OSError:
                return None  # the measurement is for people; it is in nobody's way
            stamps = [data for level, kind, data in ancillary if (level, kind) == (socket.SOL_SOCKET, SO_TIMESTAMPNS)]
            if address[2] != PACKET_OUTGOING and stamps and carries_data(frame[VNET_HEADER:]):
                whole, nanoseconds = TIMESPEC.unpack(stamps[0])
                return max(time.time() - float(whole) - float(nanoseconds) / 1e9, 0.0)
        return None

    def close(self) -> None:
        """Forget the frames; rules that keep the network closed stay."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self.rules.close()

    def _frames(self) -> list[bytes]:
        found: list[bytes] = []
        assert self._socket is not None
        while True:
            try:
                frame, address = self._socket.recvfrom(FRAME_BYTES)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENETDOWN:  # told once, of the time before the port was up
                    raise NetworkFailed(f"cannot read held frames: {error.strerror}") from error
                continue
            if address[2] == PACKET_OUTGOING:
                found.append(frame)


class Rules:
    """The rules that close a container's namespace, over a netlink socket that was opened ahead."""

    def __init__(self, inside: Namespace) -> None:
        """Nothing is closed yet, unless an earlier run of the agent has done it."""
        self._path = inside.path
        self._opened = False
        self._socket = inside.call(
            lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER),
            "opening nftables",
        )

    def close_network(self, interface: str) -> None:
        """Drop all that comes to INTERFACE, and all that the namespace sends."""
        try:
            done = subprocess.run(
                ["nsenter", f"--net={self._path}", "nft", "-f", "-"],
                input=RULES.format(table=TABLE, interface=interface),
                capture_output=True,
                text=True,
                check=False,
            )
        except OSError as error:
            raise NetworkFailed(f"cannot run nft: {error.strerror}", remedy="install nftables") from error
        if done.returncode != 0:
            raise NetworkFailed(
                f"cannot close the container's network: {done.stderr.strip()}", remedy="update nftables"
            )

    def open_network(self) -> None:
        """Quick. Both ways at the same instant: a reply that is dropped costs its sender a second.

        It changes what the rules do; taking them away takes longer, and can wait (`close`).
        """
        accept = _attribute(NFTA_CHAIN_POLICY, struct.pack(">I", NF_ACCEPT))
        chains = ((NFPROTO_NETDEV, b"incoming\0"), (NFPROTO_INET, b"outgoing\0"))
        self._transact(
            [
                (NFT_MSG_NEWCHAIN, family, _TABLE_NAME + _attribute(NFTA_CHAIN_NAME, name) + accept)
                for family, name in chains
            ]
        )
        self._opened = True

    def remove(self) -> None:
        """Take the rules away, which opens the network; nothing to do if there are none."""
        for family in (NFPROTO_NETDEV, NFPROTO_INET):
            try:
                self._transact([(NFT_MSG_DELTABLE, family, _TABLE_NAME)])
            except NetworkFailed as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise

    def close(self) -> None:
        """Remove them if they are open."""
        if self._socket.fileno() >= 0:
            try:
                if self._opened:
                    self.remove()
            finally:
                self._socket.close()

    def _transact(self, changes: list[tuple[int, int, bytes]]) -> None:
        """All of CHANGES (message, family, attributes), or none; raises NetworkFailed from the kernel's error."""
        parts = [_message(NFNL_MSG_BATCH_BEGIN, 0, 0, NFNL_SUBSYS_NFTABLES)]
        for number, (kind, family, attributes) in enumerate(changes, 1):
            parts.append(_message(NFNL_SUBSYS_NFTABLES << 8 | kind, number, family, 0, attributes))
        parts.append(_message(NFNL_MSG_BATCH_END, 0, 0, NFNL_SUBSYS_NFTABLES))
        try:
            self._socket.send(b"".join(parts))
            heard = 0
            while heard < len(changes):
                heard += _acknowledged(self._socket.recv(65536))
        except OSError as error:
            raise NetworkFailed(f"changing the container's nftables: {error.strerror}") from error


def _attribute(kind: int, data: bytes) -> bytes:
    length = NLA_HEADER.size + len(data)
    return NLA_HEADER.pack(length, kind) + data + bytes(-length % 4)


_TABLE_NAME: Final = _attribute(NFTA_TABLE_NAME, TABLE.encode() + b"\0")


def _message(kind: int, number: int, family: int, resource: int, attributes: bytes = b"") -> bytes:
    """A netlink message with its nfgenmsg (linux/netfilter/nfnetlink.h); those of a batch ask for an answer."""
    flags = NLM_F_REQUEST | (NLM_F_ACK if number else 0)
    body = struct.pack(">BBH", family, 0, resource) + attributes
    return NL_HEADER.pack(NL_HEADER.size + len(body), kind, flags, number, 0) + body


def _acknowledged(data: bytes) -> int:
    """Number of good answers in what was received; raises OSError for a bad one."""
    count = position = 0
    while position < len(data):
        length, kind, *_ = NL_HEADER.unpack_from(data, position)
        if kind == NLMSG_ERROR:
            (code,) = struct.unpack_from("i", data, position + NL_HEADER.size)
            if code:
                raise OSError(-code, os.strerror(-code))
            count += 1
        position += (length + 3) & ~3
    return count


def carries_data(frame: bytes) -> bool:
    """Whether an Ethernet frame brings something to a program: TCP with a payload, or UDP."""
    kind, packet = frame[12:14], frame[14:]
    if kind == b"\x08\x00" and len(packet) >= 20:
        head, protocol, end = (packet[0] & 15) * 4, packet[9], int.from_bytes(packet[2:4], "big")
    elif kind == b"\x86\xdd" and len(packet) >= 40:
        head, protocol, end = 40, packet[6], 40 + int.from_bytes(packet[4:6], "big")
    else:
        return False
    if protocol == socket.IPPROTO_UDP:
        return True
    # A segment that offload made too large for the field has 0 there (IPv6 jumbo, GSO).
    segment = packet[head : end if end > head else None]
    return protocol == socket.IPPROTO_TCP and len(segment) > 20 and len(segment) > (segment[12] >> 4) * 4


def _socket() -> socket.socket:
    """Bound to nothing yet: it gets no frames before `catch`."""
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    made.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, HELD_BYTES)
    return made
