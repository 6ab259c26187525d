"""A container's network identity: what must be the same on both hosts, so that nobody outside notices.

Pure values and their JSON. It must not know how interfaces are read or made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Address:
    """An address of the container's interface, in text, with its prefix length."""

    address: str
    prefix: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route of the container by its one interface; empty `destination` is the default route."""

    destination: str  # "10.0.0.0/8", or empty
    gateway: str  # empty: on link
    onlink: bool = False
    metric: int = 0
    source: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """A veth pair on a bridge: the container's end (with its name, MAC, ...) and the host's end."""

    namespace: str  # path of the network namespace, the same on both hosts
    name: str  # of the container's interface
    mac: str
    mtu: int
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    port: str  # name of the host's end
    port_mac: str
    bridge: str  # name of the bridge that the host's end is plugged into
    index: int = 0  # of the container's interface, which its sockets may refer to; 0: any

    @classmethod
    def bare(cls, namespace: str) -> Identity:
        """A namespace with nothing but lo in it."""
        return cls(namespace, "", "", 0, (), (), "", "", "")

    @property
    def is_bare(self) -> bool:
        """Whether there is nothing but lo."""
        return not self.port

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Identity:
        """From `to_json`."""
        return cls(
            **{
                **value,
                "addresses": tuple(Address(**each) for each in value["addresses"]),
                "routes": tuple(Route(**each) for each in value["routes"]),
            }
        )
