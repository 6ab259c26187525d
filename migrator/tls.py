"""Mutual TLS between agents, from files: both ends show a certificate, both check it against one authority.

It must not know what is said over it.
"""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import grpc

from migrator.core.address import is_loopback
from migrator.core.argv import Tls
from migrator.core.errors import Insecure

_REMEDY = "give --cert, --key and --ca; 'voyfs certs' makes them"


def require_secure(host: str, tls: Tls | None) -> None:
    """Raise Insecure for an address off loopback without TLS material."""
    if tls is None and not is_loopback(host):
        raise Insecure(f"{host} is not loopback: agents speak over networks with mutual TLS only", remedy=_REMEDY)


def check(tls: Tls) -> None:
    """Raise Insecure, naming the file, where one is missing or unusable."""
    _context(tls)


def server_credentials(tls: Tls) -> grpc.ServerCredentials:
    """Clients without a certificate of the authority are refused."""
    check(tls)
    return grpc.ssl_server_credentials(
        [(_read(tls.key), _read(tls.certificate))], _read(tls.authority), require_client_auth=True
    )


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    """For calling a peer."""
    check(tls)
    return grpc.ssl_channel_credentials(_read(tls.authority), _read(tls.key), _read(tls.certificate))


def refusal(host: str, port: int, tls: Tls | None, seconds: float) -> str:
    """Why the peer and we do not come together, if it is for TLS; else empty.

    gRPC tells a failed handshake like a cut link, so this makes one handshake of its own.
    """
    try:
        with socket.create_connection((host, port), timeout=seconds) as plain:
            if tls is None:
                return ""
            context = _context(tls)
            context.set_alpn_protocols(["h2"])
            with context.wrap_socket(plain, server_hostname=host) as wrapped:
                wrapped.recv(1)  # with TLS 1.3, a refusal of our certificate comes only now
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        return f"the TLS handshake fails: {(error.reason or 'no reason given').lower().replace('_', ' ')}"
    except OSError:
        pass
    return ""


def _context(tls: Tls) -> ssl.SSLContext:
    for file in (tls.certificate, tls.key, tls.authority):
        if b"-----BEGIN " not in _read(file):
            raise Insecure(f"{file} is not a PEM file", remedy=_REMEDY)
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
    try:
        context.load_verify_locations(tls.authority)
        context.load_cert_chain(tls.certificate, tls.key, password="")  # else OpenSSL would ask on the terminal
    except ssl.SSLError as error:
        raise Insecure(f"cannot use {tls.certificate} with {tls.key} and {tls.authority}: {error.reason}") from error
    return context


def _read(file: object) -> bytes:
    try:
        return Path(str(file)).read_bytes()
    except OSError as error:
        raise Insecure(f"cannot read {file}: {error.strerror}", remedy=_REMEDY) from error
