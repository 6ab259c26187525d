"""nginx in the middle of sending a file of 2 GiB."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from migrator.inspector import CAP_SYS_RESOURCE, has_capability
from tests.migrator.agents import agents_on, until
from tests.migrator.applications import download

PORT = 80
MIB = bundle.MIB
SIZE = 2048 * MIB
SECONDS = 120.0
# CRIU dumps other users' processes only with it.
WORKER = "www-data" if has_capability(CAP_SYS_RESOURCE) else "root"
CONFIG = f"""
user {WORKER};
worker_processes 2;
daemon off;
events {{ }}
http {{
    sendfile on;
    server {{ listen {PORT}; root /srv/files; }}
}}
"""


def write_file(path: Path) -> str:
    """A file of SIZE with something else in each MiB, at a place that fits no boundary; its digest."""
    pool = os.urandom(2 * MIB)
    with open(path, "wb", buffering=0) as file:
        for number in range(SIZE // MIB):
            place = number * 509 % MIB
            file.seek(number * MIB + place % (MIB - (64 << 10)))
            file.write(pool[place : place + (64 << 10)])
        file.truncate(SIZE)
    with open(path, "rb") as written:
        return hashlib.file_digest(written, "sha256").hexdigest()


def test_a_download_goes_on(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(
        a.host, "web", ["/usr/sbin/nginx", "-c", "/srv/nginx.conf"], data_mib=0, root="applications"
    )
    root = a.host.path_of(container.rootfs)
    (root / "srv/nginx.conf").write_text(CONFIG)
    (root / "srv/files").mkdir()
    digest = write_file(root / "srv/files/big")
    container.start()
    container.wait_port(PORT)
    words = [sys.executable, "-I", "-S", download.__file__, container.network.address, str(PORT), "/big"]
    client = lab.host("c").popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin is not None
    assert client.stdout is not None
    with client:
        try:
            while int(client.stdout.readline()) < 8 * MIB:
                pass
            with a.migrating("web", b) as stream:
                until(stream, event="opened")
                client.stdin.write("go\n")
                client.stdin.flush()
                until(stream, event="result")
            assert remains(a.host) == []
            a.host.kill()
            lines = client.stdout.readlines()
        finally:
            client.kill()
    assert lines[-1].split() == ["200", digest]
