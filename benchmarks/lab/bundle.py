"""OCI bundles for the laboratory: redis with a disk of any size, and a minimal container.

The disk holds a few of every kind of file that has ever been lost in a copy, besides the plain data that makes it big.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final

from benchmarks.lab.container import Container, Network
from benchmarks.lab.hosts import Host

PORT: Final = 6379
MIB: Final = 1 << 20
DATA: Final = PurePosixPath("srv/data")  # inside the container's root
DATA_FILES: Final = 8  # more than one, so that hydration has an order; few enough that each is large
POOL_MIB: Final = 33
STRIDE: Final = 0x9E3779B1  # odd, so no place comes twice, and none a multiple of 4 KiB after another in 4 GiB
COPY_SECONDS: Final = 300.0  # copying a root on a slow disk
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
# security.capability, revision 2 (linux/capability.h): effective bit, permitted CAP_NET_RAW, nothing inheritable
_CAPABILITY: Final = (0x02000001).to_bytes(4, "little") + (1 << 13).to_bytes(4, "little") + bytes(12)

# Append-only: a container that only computed would not show that its disk follows.
REDIS: Final = (
    *("redis-server", "--port", str(PORT), "--bind", "0.0.0.0", "--protected-mode", "no"),
    *("--dir", "/srv/redis", "--appendonly", "yes", "--save", ""),
)
# Writes a line ten times a second: enough to see whether, and where, it runs.
LOOP: Final = ("/bin/sh", "-c", "while :; do date +%s.%N >>/srv/log; sleep 0.1; done")


def cached_root(name: str = "redis") -> Path:
    """The cached Debian root with redis or what else NAME says; built now if need be, which takes a minute."""
    result = subprocess.run(
        [_REPOSITORY / "scripts/rootfs", name], check=True, stdout=subprocess.PIPE, text=True, timeout=900
    )
    return Path(result.stdout.strip())


def redis(host: Host, name: str, *, data_mib: int = 8, network: Network | None = None) -> Container:
    """A bundle of redis on HOST with DATA_MIB of data files, and its network; not started."""
    return make(host, name, REDIS, data_mib=data_mib, network=network)


def loop(host: Host, name: str, *, network: Network | None = None) -> Container:
    """A bundle of a shell that writes to /srv/log in a loop, and its network; not started."""
    return make(host, name, LOOP, data_mib=0, network=network)


def make(
    host: Host,
    name: str,
    argv: Sequence[str],
    *,
    data_mib: int,
    network: Network | None = None,
    root: str = "redis",
) -> Container:
    """A bundle that runs ARGV on a copy of the cached root called ROOT, and its network; not started."""
    container = Container(host, name, Host.data / "bundles" / name, network or Network(name))
    host.run(["mkdir", "-p", container.bundle])
    host.run(["cp", "-a", "--reflink=auto", cached_root(root), container.rootfs], timeout=COPY_SECONDS)
    files = host.path_of(container.rootfs)
    (files / "srv/redis").mkdir()
    write_data(files / DATA, data_mib)
    write_specials(files / "srv/specials")
    write_config(container, argv)
    container.network.create(host)
    return container


def write_config(container: Container, argv: Sequence[str]) -> None:
    """config.json as `runc spec` writes it, with what checkpoint and restore need changed."""
    container.host.run(["runc", "spec"], cwd=str(container.bundle))
    path = container.host.path_of(container.bundle / "config.json")
    config: dict[str, Any] = json.loads(path.read_text())
    process = config["process"]
    process["args"] = list(argv)
    process["terminal"] = False
    del process["rlimits"]  # may ask for more than this machine allows
    config["root"] = {"path": "rootfs", "readonly": False}
    config["hostname"] = container.name
    for namespace in config["linux"]["namespaces"]:
        if namespace["type"] == "network":
            namespace["path"] = container.network.path
    path.write_text(json.dumps(config, indent=2))


def edit_config(container: Container, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a bundle's config.json before the container is started."""
    path = container.host.path_of(container.bundle / "config.json")
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def write_data(directory: Path, mib: int) -> None:
    """MIB MiB in a few files of equal size, which no deduplication by blocks and no usual compressor makes smaller.

    Each MiB is a window into one pool of random bytes, at a place of its own that no block boundary fits: as fast as
    the disk, where random bytes for all of it would take seconds a GiB.
    """
    directory.mkdir(parents=True)
    pool = memoryview(os.urandom(POOL_MIB * MIB))
    share, rest = divmod(mib, DATA_FILES)
    place = 0
    for index in range(DATA_FILES):
        with open(directory / f"data-{index}", "wb", buffering=0) as file:
            for _ in range(share + (index < rest)):
                place = (place + STRIDE) % ((POOL_MIB - 1) * MIB)
                file.write(pool[place : place + MIB])


def write_specials(directory: Path) -> None:
    """A few files of every kind that a container's root holds."""
    directory.mkdir(parents=True)
    with open(directory / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(64 * MIB)
        file.write(b"middle")
        file.truncate(128 * MIB)
    (directory / "all-hole").touch()
    os.truncate(directory / "all-hole", 16 * MIB)
    (directory / "linked").write_text("one file, three names\n")
    (directory / "below").mkdir()
    for name in ("linked-again", "below/linked-once-more"):
        os.link(directory / "linked", directory / name)
    (directory / "xattr").write_text("attributes\n")
    os.setxattr(directory / "xattr", "user.voyager", bytes(range(256)))
    os.setxattr(directory / "xattr", "trusted.voyager", b"")
    (directory / "capable").write_text("capabilities\n")
    os.setxattr(directory / "capable", "security.capability", _CAPABILITY)
    (directory / "setuid").write_text("#!/bin/sh\n")
    os.chown(directory / "setuid", 1000, 1001)
    os.chmod(directory / "setuid", 0o6755)
    os.utime(directory / "setuid", ns=(1_000_000_001, 2_000_000_002_123_456_789))
    os.mkfifo(directory / "fifo", 0o640)
    os.mknod(directory / "socket", stat.S_IFSOCK | 0o755)
    os.mknod(directory / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(directory / "block", stat.S_IFBLK | 0o600, os.makedev(7, 0))
    os.symlink("../specials/linked", directory / "symlink")
    os.symlink("/nowhere/at all", directory / "dangling")
    (directory / "sticky").mkdir(0o700)
    os.chmod(directory / "sticky", 0o1777)
    (directory / "empty").touch()
    (directory / ("long-" + "n" * 250)).touch()
    (directory / os.fsdecode(b"not-utf8-\xff\xfe")).write_text("names are bytes\n")
    (directory / "new\nline").touch()
