"""When a host's certificate ends. It must not know what it is used for."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509

from migrator.core.argv import Tls


def expires(material: Tls) -> float:
    """Seconds since the epoch; 0 if it cannot be read. Of the certificate or its authority, whichever ends first."""
    try:
        files = (Path(material.certificate), Path(material.authority))
        ends = [x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc for file in files]
    except (OSError, ValueError):
        return 0.0
    return min(end.timestamp() for end in ends)
