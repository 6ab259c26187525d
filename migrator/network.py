"""Moves a veth pair on a bridge from host to host: same names, MAC, addresses, routes (ports.Network).

It must not know of runtimes or of the order of a migration; what happens to a pair during one is in `veth`.
"""

from __future__ import annotations

import ipaddress
import os
import threading
from collections.abc import Set
from typing import Any, Final

from migrator import bare, netlink
from migrator.core import bundle, limits
from migrator.core.errors import NetworkFailed, Unsupported
from migrator.core.identity import Address, Identity, Route
from migrator.core.plan import Container
from migrator.netlink import Namespace, link_kind
from migrator.ports import TargetLink
from migrator.veth import VethSource, VethTarget

RT_TABLE_MAIN: Final = 254
RTPROT_KERNEL: Final = 2  # made by the kernel itself with the address: it will again
RTN_UNICAST: Final = 1
RTNH_F_ONLINK: Final = 4
IFA_F_NODAD: Final = 2

_MAKING: Final = threading.Lock()  # a pair: its index is free when it is chosen, and taken when it is made


class VethNetwork:
    """See ports.Network."""

    def examine(self, container: Container) -> Identity | None:
        """Raises Unsupported for anything but a veth pair on a bridge, or nothing at all."""
        path = bundle.network_namespace(container.config)
        if path is None:
            raise Unsupported(f"container {container.name} uses the host's network")
        own = f"/proc/{container.pid}/ns/net"
        if path and not (os.path.exists(path) and os.path.samefile(path, own)):
            raise Unsupported(f"container {container.name} does not run in the network namespace {path} of its config")
        inside, outside = Namespace(own), Namespace()
        try:
            links = [link for link in inside.links() if link["index"] != 1]
            if not links and not path:
                return None
            if not path:
                raise Unsupported(f"the runtime made the network namespace of container {container.name}")
            if len(links) != 1 or link_kind(links[0]) != "veth":
                names = ", ".join(str(link.get_attr("IFLA_IFNAME")) for link in links) or "none"
                raise Unsupported(f"container {container.name} must have one veth interface, and has: {names}")
            return _identity(container.name, path, links[0], inside, outside)
        finally:
            inside.close()
            outside.close()

    def source(self, identity: Identity) -> VethSource:
        """Take hold of an existing one."""
        return VethSource(identity)

    def conflicts(self, identity: Identity) -> tuple[bool, bool, bool]:
        """See ports.Network."""
        if identity.is_bare:
            return os.path.lexists(identity.namespace), False, True
        outside = Namespace()
        try:
            links = {link.get_attr("IFLA_IFNAME"): link for link in outside.links()}
            bridge = links.get(identity.bridge)
            return (
                os.path.lexists(identity.namespace),
                identity.port in links,
                bridge is not None and link_kind(bridge) == "bridge",
            )
        finally:
            outside.close()

    def addresses_taken(self, identity: Identity) -> tuple[str, ...]:
        """See ports.Network."""
        if identity.is_bare:
            return ()
        outside = Namespace()
        try:
            used = {each.get_attr("IFA_ADDRESS") for each in outside.addresses()}
            bridge = outside.index_of(identity.bridge)
            if bridge is not None:
                ports = {link["index"] for link in outside.links() if link.get_attr("IFLA_MASTER") == bridge}
                used |= _used_beside(identity, ports)
            return tuple(each.address for each in identity.addresses if each.address in used)
        finally:
            outside.close()

    def build(self, identity: Identity) -> TargetLink:
        """Make it, closed. What is there already is an error, and stays."""
        if identity.is_bare:
            return bare.build(identity.namespace)
        inside = Namespace(identity.namespace, create=True)
        try:
            outside = Namespace()
            try:
                with _MAKING:
                    _make_pair(identity, inside, outside)
            finally:
                outside.close()
            _configure(identity, inside)
            return VethTarget(identity, hold=True)
        except BaseException:
            netlink.remove_namespace(identity.namespace)  # and with it, once we have left it, the pair
            raise
        finally:
            inside.close()

    def target(self, identity: Identity) -> TargetLink:
        """Take hold of one that an earlier run of the agent made."""
        return bare.BareTarget() if identity.is_bare else VethTarget(identity)

    def remove(self, identity: Identity) -> None:
        """See ports.Network. The pair goes first: a namespace in use lives on without its path."""
        outside = Namespace()
        try:
            index = None if identity.is_bare else outside.index_of(identity.port)
            if index is not None:
                outside.call(lambda: outside.route.link("del", index=index), f"removing {identity.port}")
        finally:
            outside.close()
        netlink.remove_namespace(identity.namespace)


def _used_beside(identity: Identity, ports: Set[int]) -> set[str]:
    """Addresses in the namespaces beside the one of IDENTITY, of interfaces whose other ends are among PORTS.

    Another bridge may be another network, where the same address is another one.
    """
    used: set[str] = set()
    directory = os.path.dirname(identity.namespace)
    names = sorted(os.listdir(directory)) if os.path.isdir(directory) else []
    for name in names[: limits.NEIGHBOURS]:
        try:
            inside = Namespace(f"{directory}/{name}")
        except NetworkFailed:  # it went meanwhile, or is none
            continue
        try:
            near = {link["index"] for link in inside.links() if link.get_attr("IFLA_LINK") in ports}
            used |= {each.get_attr("IFA_ADDRESS") for each in inside.addresses() if each["index"] in near}
        finally:
            inside.close()
    return used


def _identity(name: str, path: str, link: Any, inside: Namespace, outside: Namespace) -> Identity:
    index = int(link["index"])
    peer = link.get_attr("IFLA_LINK")
    links = {each["index"]: each for each in outside.links()}
    port = links.get(peer)
    if port is None or link_kind(port) != "veth" or port.get_attr("IFLA_LINK") != index:
        raise Unsupported(f"the other end of container {name}'s interface is not on this host")
    bridge = links.get(port.get_attr("IFLA_MASTER"))
    if bridge is None or link_kind(bridge) != "bridge":
        raise Unsupported(
            f"the other end of container {name}'s interface, {port.get_attr('IFLA_IFNAME')}, is on no bridge"
        )
    return Identity(
        namespace=path,
        name=link.get_attr("IFLA_IFNAME"),
        mac=link.get_attr("IFLA_ADDRESS"),
        mtu=link.get_attr("IFLA_MTU"),
        addresses=tuple(_addresses(inside, index)),
        routes=tuple(_routes(name, inside, index)),
        port=port.get_attr("IFLA_IFNAME"),
        port_mac=port.get_attr("IFLA_ADDRESS"),
        bridge=bridge.get_attr("IFLA_IFNAME"),
        index=index,
    )


def _addresses(inside: Namespace, index: int) -> list[Address]:
    found = inside.call(lambda: list(inside.route.get_addr(index=index)), "listing addresses")
    return [
        Address(address, each["prefixlen"])
        for each in found
        # The kernel makes a link-local address from the MAC, on the target as well.
        if not ipaddress.ip_address(address := each.get_attr("IFA_LOCAL") or each.get_attr("IFA_ADDRESS")).is_link_local
        or ":" not in address
    ]


def _routes(name: str, inside: Namespace, index: int) -> list[Route]:
    routes = []
    for each in inside.call(lambda: list(inside.route.get_routes(table=RT_TABLE_MAIN)), "listing routes"):
        if each["proto"] == RTPROT_KERNEL:
            continue
        if each["type"] != RTN_UNICAST or each.get_attr("RTA_OIF") != index:
            raise Unsupported(f"container {name} has a route that is not a plain one by its interface")
        destination = each.get_attr("RTA_DST")
        routes.append(
            Route(
                destination=f"{destination}/{each['dst_len']}" if destination else "",
                gateway=each.get_attr("RTA_GATEWAY") or "",
                onlink=bool(each["flags"] & RTNH_F_ONLINK),
                metric=each.get_attr("RTA_PRIORITY") or 0,
                source=each.get_attr("RTA_PREFSRC") or "",
            )
        )
    return routes


def _make_pair(identity: Identity, inside: Namespace, outside: Namespace) -> None:
    """The pair, its host's end on the bridge and down.

    Both ends must differ in their index, or the kernel takes the pair for no pair, and its carrier comes up to a second
    late: hence an explicit one for the host's end.
    """
    links = outside.links()
    bridge = next((each["index"] for each in links if each.get_attr("IFLA_IFNAME") == identity.bridge), None)
    if bridge is None:
        raise NetworkFailed(f"there is no bridge {identity.bridge}")
    index = max(identity.index, *(each["index"] for each in links)) + 1
    peer: dict[str, Any] = {"ifname": identity.name, "address": identity.mac, "mtu": identity.mtu}
    if identity.index:
        peer["index"] = identity.index

    def make() -> None:
        namespace = os.open(identity.namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            outside.route.link(
                "add",
                ifname=identity.port,
                index=index,
                kind="veth",
                address=identity.port_mac,
                mtu=identity.mtu,
                master=bridge,
                peer={**peer, "net_ns_fd": namespace},
            )
        finally:
            os.close(namespace)

    outside.call(make, f"making the interfaces {identity.port} and {identity.name}")


def _configure(identity: Identity, inside: Namespace) -> None:
    route, index = inside.route, inside.index_of(identity.name)

    def configure() -> None:
        route.link("set", index=1, state="up")
        route.link("set", index=index, state="up")
        for address in identity.addresses:
            flags = {"flags": IFA_F_NODAD} if ":" in address.address else {}
            route.addr("add", index=index, address=address.address, prefixlen=address.prefix, **flags)
        for each in identity.routes:
            route.route("add", **_route_words(each, index))

    inside.call(configure, f"configuring {identity.name}")


def _route_words(route: Route, index: int | None) -> dict[str, Any]:
    words: dict[str, Any] = {"dst": route.destination or "default", "oif": index, "table": RT_TABLE_MAIN}
    if not route.destination and ":" in route.gateway:
        words["dst"] = "::/0"
    if route.gateway:
        words["gateway"] = route.gateway
    if route.onlink:
        words["flags"] = RTNH_F_ONLINK
    if route.metric:
        words["priority"] = route.metric
    if route.source:
        words["prefsrc"] = route.source
    return words
