"""Netlink in a chosen network namespace, from any thread.

A namespace belongs to a thread, and pyroute2's sockets do too; so each namespace in use gets a thread of its own, which
enters it once, and runs what it is given. It must not know about containers.
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from migrator import syscalls
from migrator.core.errors import NetworkFailed

T = TypeVar("T")

SOL_PACKET = 263
PACKET_QDISC_BYPASS = 20
BRIDGE_PORT_FORWARDING = 3
_BROADCAST = b"\xff" * 6


class Namespace:
    """One network namespace: the caller's own, the one at `path`, or (`create`) a new one, which gets that path."""

    def __init__(self, path: str | None = None, *, create: bool = False) -> None:
        """Enter it; raises NetworkFailed."""
        self.path = path
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        ready: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(ready, create), name=f"netns {path}", daemon=True)
        self._thread.start()
        try:
            ready.result()
        except OSError as error:
            raise NetworkFailed(f"cannot enter the network namespace {path}: {error.strerror}") from error

    def _run(self, ready: Future[None], create: bool) -> None:
        try:
            if self.path is not None and create:
                _create(self.path)
            elif self.path is not None:
                descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    syscalls.setns(descriptor, syscalls.CLONE_NEWNET)
                finally:
                    os.close(descriptor)
            self.route = IPRoute()
            self.route.link_lookup(ifname="lo")  # its socket is made on first use: now, and not in a freeze
        except BaseException as error:
            ready.set_exception(error)
            return
        ready.set_result(None)
        while (item := self._work.get()) is not None:
            work, result = item
            try:
                result.set_result(work())
            except BaseException as error:
                result.set_exception(error)
        self.route.close()

    def call(self, work: Callable[[], T], what: str) -> T:
        """Run WORK in the namespace; what netlink refuses raises NetworkFailed, which says WHAT was tried."""
        result: Future[T] = Future()
        self._work.put((work, result))
        try:
            return result.result()
        except NetlinkError as error:
            raise NetworkFailed(f"{what}: {os.strerror(error.code)}") from error
        except OSError as error:
            raise NetworkFailed(f"{what}: {error.strerror or error}") from error

    def set_link(self, index: int, state: str) -> None:
        """Raise or lower an interface."""
        self.call(lambda: self.route.link("set", index=index, state=state), f"setting an interface {state}")

    def links(self) -> list[Any]:
        """All interfaces, as pyroute2 gives them."""
        return self.call(lambda: list(self.route.get_links()), "listing interfaces")

    def addresses(self) -> list[Any]:
        """All addresses, as pyroute2 gives them."""
        return self.call(lambda: list(self.route.get_addr()), "listing addresses")

    def index_of(self, name: str) -> int | None:
        """Index of an interface."""
        found = self.call(lambda: self.route.link_lookup(ifname=name), f"looking up {name}")
        return int(found[0]) if found else None

    def forwards(self, index: int) -> bool:
        """Whether a bridge's port forwards frames already."""
        link = self.call(lambda: self.route.get_links(index)[0], "looking at a bridge's port")
        return bool(
            _nested(link, "IFLA_LINKINFO", "IFLA_INFO_SLAVE_DATA", "IFLA_BRPORT_STATE") == BRIDGE_PORT_FORWARDING
        )

    def announcer(self, interface: str) -> socket.socket:
        """A packet socket that only sends, on an interface.

        Past the queue of the interface, which throws frames away for a while after its carrier has come up.
        """

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            try:
                made.setsockopt(SOL_PACKET, PACKET_QDISC_BYPASS, 1)
                made.bind((interface, 0))
            except BaseException:
                made.close()
                raise
            return made

        return self.call(make, f"opening a packet socket on {interface}")

    def close(self) -> None:
        """Leave it. The namespace stays as long as it has a path or a process."""
        self._work.put(None)
        self._thread.join()


def _create(path: str) -> None:
    """Move this thread into a new namespace and bind it to a path, as `ip netns add` does."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.mount(f"/proc/self/task/{threading.get_native_id()}/ns/net", path, flags=syscalls.MS_BIND)
    except BaseException:
        os.unlink(path)
        raise


def remove_namespace(path: str) -> None:
    """Take the path away, as `ip netns del` does; nothing to do if there is none. Raises NetworkFailed."""
    try:
        while path in syscalls.mount_points():
            syscalls.unmount(path)
        if os.path.isfile(path) and os.path.getsize(path) == 0:  # what a namespace was bound to, and nothing else
            os.unlink(path)
    except OSError as error:
        raise NetworkFailed(f"cannot remove the network namespace {path}: {error.strerror}") from error


def _nested(message: Any, *names: str) -> Any:
    """An attribute within attributes; None where one is missing."""
    for name in names:
        message = message.get_attr(name) if message is not None else None
    return message


def link_kind(link: Any) -> str:
    """Such as "veth"; empty for lo and physical interfaces."""
    return str(_nested(link, "IFLA_LINKINFO", "IFLA_INFO_KIND") or "")


def announcement(mac: str, address: str | None) -> bytes:
    """A frame that tells bridges (and, with an IPv4 address, neighbours) where a MAC is now.

    With ADDRESS it is an ARP announcement (RFC 5227, section 3), else a reverse ARP request, which no neighbour minds.
    """
    hardware = bytes.fromhex(mac.replace(":", ""))
    protocol = socket.inet_aton(address) if address else bytes(4)
    kind, operation = (b"\x08\x06", 1) if address else (b"\x80\x35", 3)
    head = b"\x00\x01\x08\x00\x06\x04" + operation.to_bytes(2, "big")
    target = bytes(6) if address else hardware
    return (_BROADCAST + hardware + kind + head + hardware + protocol + target + protocol).ljust(60, b"\0")
