"""Certificates for the laboratory's hosts, as an operator of a few hosts would make them.

One CA for all; each host gets its own certificate and key, and nobody but the test itself keeps the CA's key.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Final

from benchmarks.lab.hosts import Host
from voyfs.certs import make_ca, make_host

DIRECTORY: Final = Host.data / "tls"


def install(hosts: Iterable[Host]) -> None:
    """Put `ca.pem`, and NAME.pem with NAME.key for its name and address, on each of HOSTS."""
    with TemporaryDirectory(prefix="voyager-ca-") as text:
        authority = Path(text)
        make_ca(authority)
        for host in hosts:
            files = make_host(authority, [host.name, host.address])
            place = host.path_of(DIRECTORY)
            place.mkdir(mode=0o700)
            for file in (files.cert, files.key, files.ca):
                shutil.copy(file, place)


def options(host: Host) -> list[str]:
    """The options of `voyfs` and `migrator` that name HOST's files."""

    def path(name: str) -> str:
        return str(PurePosixPath(DIRECTORY, name))

    return ["--cert", path(f"{host.name}.pem"), "--key", path(f"{host.name}.key"), "--ca", path("ca.pem")]
