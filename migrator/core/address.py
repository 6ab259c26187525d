"""How agents are named: HOST, HOST:PORT, [V6]:PORT.

Pure: nothing is looked up.
"""

from __future__ import annotations

import ipaddress
from typing import Final

DEFAULT_PORT: Final = 7878


def parse_address(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """HOST, HOST:PORT, or [V6]:PORT; raises ValueError."""
    host, separator, port = text.rpartition(":")
    if (text.startswith("[") and text.endswith("]")) or not separator or (":" in host and not host.startswith("[")):
        host, port = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    good = _is_v6(host) if ":" in host else bool(host) and not set(host) & set("[]/ ")
    if not good or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise ValueError(f"'{text}' is no HOST[:PORT]")
    return host, int(port)


def _is_v6(host: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


def join_address(host: str, port: int) -> str:
    """HOST:PORT, with brackets where they are needed."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this one by its name alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
