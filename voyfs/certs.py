"""A small CA for people who have none: `voyfs certs`.

Makes a CA once, and a certificate for each host, in PEM files that `TlsFiles` takes. The CA's
key stays in its directory; a host needs only its own certificate and key, and the CA's
certificate. Knows nothing of gRPC.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from voyfs.core.errors import InsecureError
from voyfs.rpc.tls import TlsFiles

CA_DAYS = 3650
HOST_DAYS = 825  # the longest that common TLS stacks accept of a host's certificate
_BACKDATED = datetime.timedelta(hours=1)  # for hosts whose clocks are behind


def make_ca(directory: Path, *, days: int = CA_DAYS, now: datetime.datetime | None = None) -> Path:
    """Makes `ca.pem` and `ca.key` in `directory`, which is created; returns the certificate's path.

    Raises InsecureError where there is one already, or it cannot be written.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "voyfs CA")])
    builder = (
        _certificate(name, name, key.public_key(), days, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    certificate = builder.sign(key, hashes.SHA256())
    path = directory / "ca.pem"
    _write(directory / "ca.key", _key_pem(key), 0o600)
    _write(path, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return path


def make_host(
    directory: Path,
    names: Sequence[str],
    *,
    days: int = HOST_DAYS,
    now: datetime.datetime | None = None,
) -> TlsFiles:
    """Makes NAME.pem and NAME.key, signed by the CA in `directory`; NAME is the first of `names`.

    `names` are host names and IP addresses, all of which the certificate bears. Good as a
    server's and as a client's. Raises InsecureError.
    """
    if not names or not all(map(_is_name, names)):
        raise InsecureError(f"not host names or addresses: {', '.join(names) or 'none given'}")
    ca, ca_key = _load_ca(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    builder = (
        _certificate(subject, ca.subject, key.public_key(), days, now)
        .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
            critical=False,
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    stem = names[0].replace(":", "_")
    files = TlsFiles(directory / f"{stem}.pem", directory / f"{stem}.key", directory / "ca.pem")
    _write(files.key, _key_pem(key), 0o600)
    _write(files.cert, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    return files


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    days: int,
    now: datetime.datetime | None,
) -> x509.CertificateBuilder:
    now = now or datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _is_name(name: str) -> bool:
    if not name or "/" in name or name.startswith((".", "-")) or name in ("ca", "ca.pem"):
        return False
    return name.isascii() and all(c.isalnum() or c in "-._:" for c in name)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _load_ca(directory: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    try:
        certificate = x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes())
        key = serialization.load_pem_private_key((directory / "ca.key").read_bytes(), None)
    except FileNotFoundError as error:
        raise InsecureError(f"no CA in {directory}: {error.filename} is missing") from error
    except OSError as error:
        raise InsecureError(f"cannot read {error.filename}: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise InsecureError(f"the CA in {directory} cannot be used: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise InsecureError(f"the CA in {directory} was not made by voyfs: its key is no EC key")
    return certificate, key


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _write(path: Path, data: bytes, mode: int) -> None:
    """Never over an existing file: it may be somebody's only copy of a key."""
    try:
        if not path.parent.is_dir():
            path.parent.mkdir(mode=0o700, parents=True)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with open(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
    except FileExistsError as error:
        raise InsecureError(f"{error.filename} exists already; remove it first if it may go") from error
    except OSError as error:
        raise InsecureError(f"cannot write {path}: {error.strerror}") from error
