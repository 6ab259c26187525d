"""HOST:PORT as users write it, and which of them stay on this machine."""

import ipaddress
import socket
from dataclasses import dataclass

from voyfs.core.errors import InsecureError, ListenError
from voyfs.rpc.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class Address:
    """`host` is a name or an IP address without brackets; `port` 0 asks for any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def target(self) -> str:
        """As gRPC wants it."""
        return str(self)

    @property
    def on_loopback(self) -> bool:
        """Whether all that the host stands for is this machine's loopback."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            pass
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except OSError:
            return False
        return bool(found) and all(
            ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in found
        )


def parse_address(text: str) -> Address:
    """HOST:PORT, with brackets around an IPv6 address. Raises ListenError."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not colon or not host or (":" in host and not bracketed):
        raise ListenError(f"not an address: {text!r}; write HOST:PORT, or [HOST]:PORT for IPv6")
    if not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ListenError(f"not a port: {port!r} in {text!r}; it is a number up to 65535")
    return Address(host, int(port))


def require_secure(address: Address, tls: TlsFiles | None) -> None:
    """Raises InsecureError where plain text would leave the machine."""
    if tls is None and not address.on_loopback:
        raise InsecureError(
            f"{address} is not on loopback, so TLS is needed: give a certificate, its key and"
            " the CA (`voyfs certs` makes them)"
        )
