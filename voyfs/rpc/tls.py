"""Mutual TLS from files: both ends show a certificate, both check it against one CA."""

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from voyfs.core.errors import InsecureError

# The connection preface of HTTP/2 (RFC 9113, 3.4) and an empty SETTINGS frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: this host's certificate and its key, and the CA that signed all peers'."""

    cert: Path
    key: Path
    ca: Path

    def check(self) -> None:
        """Raises InsecureError, naming the file, where one is missing or of no use."""
        self._context()

    def server_credentials(self) -> grpc.ServerCredentials:
        """Clients without a certificate of the CA are refused. Raises InsecureError."""
        self.check()
        pair = (_read(self.key), _read(self.cert))
        return grpc.ssl_server_credentials([pair], _read(self.ca), require_client_auth=True)

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Raises InsecureError."""
        self.check()
        return grpc.ssl_channel_credentials(_read(self.ca), _read(self.key), _read(self.cert))

    def _context(self) -> ssl.SSLContext:
        for file in (self.cert, self.key, self.ca):
            if b"-----BEGIN " not in _read(file):
                raise InsecureError(f"cannot use {file}: it is not a PEM file")
        context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH)
        try:
            context.load_verify_locations(self.ca)
        except ssl.SSLError as error:
            raise InsecureError(f"cannot use {self.ca}: it holds no CA certificate") from error
        try:
            # An empty password, or OpenSSL would ask for one on the terminal.
            context.load_cert_chain(self.cert, self.key, password="")
        except ssl.SSLError as error:
            why = "they do not belong together" if "MISMATCH" in str(error) else "not usable"
            raise InsecureError(f"cannot use {self.cert} with {self.key}: {why}") from error
        return context


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise InsecureError(f"cannot read {file}: {error.strerror}") from error


def refusal(host: str, port: int, tls: TlsFiles | None, name: str, seconds: float) -> str | None:
    """Why the peer and we cannot come together, if it is for a reason that stays.

    gRPC reports a failed handshake like a cut link; this makes one handshake of its own to tell
    them apart. `name` is the one that the peer's certificate must bear. Blocks up to about
    `seconds`. None where the peer is not reached, or all is well.
    """
    try:
        if tls is None:
            talks = _talks_plainly(host, port, seconds)
            return "it asks for TLS" if not talks and _talks_tls(host, port, seconds) else None
        context = tls._context()
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout=seconds) as plain,
            context.wrap_socket(plain, server_hostname=name) as wrapped,
        ):
            # A server that likes us sends its settings now. With TLS 1.3 our certificate is
            # looked at only after the handshake, and gRPC hangs up without an alert.
            if wrapped.recv(1):
                return None
            return "it does not accept our certificate (is it of the same CA, and not expired?)"
    except ssl.SSLCertVerificationError as error:
        return f"its certificate is not accepted: {error.verify_message}"
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
            return "it does not speak TLS"
        if "ALERT" in (error.reason or ""):
            return f"TLS is refused: {str(error.reason).lower().replace('_', ' ')}"
        return None
    except OSError:
        return None


def _talks_plainly(host: str, port: int, seconds: float) -> bool:
    with socket.create_connection((host, port), timeout=seconds) as plain:
        plain.sendall(_PREFACE)
        return bool(plain.recv(1))


def _talks_tls(host: str, port: int, seconds: float) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent to it, nor believed
    with socket.create_connection((host, port), timeout=seconds) as plain:
        try:
            context.wrap_socket(plain).close()
        except ssl.SSLError as error:
            return "ALERT" in (error.reason or "")
    return True
