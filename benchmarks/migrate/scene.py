"""The scene of one contender: the benchmarks' stage, with memory in the container, and rsync between the hosts."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Final

from benchmarks.lab import bundle, redis
from benchmarks.lab.container import Container
from benchmarks.lab.node import LabError
from benchmarks.stage import NAME, Stage

PIPES: Final = Path("/proc/sys/fs/pipe-max-size")
PIPE_BYTES: Final = 4 << 20  # what post-copy needs, and `migrator check` would ask for
RSYNC_SECONDS: Final = 200.0
CONFIG: Final = "/run/rsyncd.conf"


class Scene(Stage):
    """A redis with MEMORY_MIB in its keys besides what it needs itself."""

    def __init__(self, disk_mib: int, memory_mib: int) -> None:
        """Nothing happens yet."""
        super().__init__(disk_mib)
        self.memory_mib = memory_mib
        self.sent = 0  # bytes, by rsync

    def start_container(self) -> Container:
        """Make it, start it, fill it."""
        argv = (*bundle.REDIS, "--enable-debug-command", "yes")
        self.container = bundle.make(self.a, NAME, argv, data_mib=self.disk_mib)
        self.a.run(["sync", "-f", self.container.bundle], timeout=bundle.COPY_SECONDS)
        self.container.start()
        self.container.wait_port(bundle.PORT)
        if self.memory_mib:
            where = self.container.network.address
            redis.command(self.a, where, "DEBUG", "POPULATE", str(self.memory_mib), "key", str(bundle.MIB))
        return self.container

    def allow_pipes(self) -> None:
        """What an operator does once for post-copy; it is the whole machine's, and stays."""
        if int(PIPES.read_text()) < PIPE_BYTES:
            PIPES.write_text(str(PIPE_BYTES))

    def start_rsync(self) -> None:
        """A daemon on `b`, without encryption: in its favour."""
        text = "uid = 0\ngid = 0\nuse chroot = no\nmunge symlinks = no\n[all]\npath = /\nread only = no\n"
        self.b.path_of(CONFIG).write_text(text)
        self.b.popen(["rsync", "--daemon", "--no-detach", "--config", CONFIG, "--address", self.b.address])
        deadline = time.monotonic() + 30
        while self.a.run(["rsync", f"rsync://{self.b.address}/"], check=False).returncode:
            if time.monotonic() > deadline:
                raise LabError("rsync's daemon does not answer")

    def rsync(self) -> None:
        """Bring the container's bundle on `b` up to date."""
        place = self.container.bundle
        words = ["rsync", "-aHAXS", "--numeric-ids", "--delete", "--mkpath", "--stats"]
        done = self.a.run([*words, f"{place}/", f"rsync://{self.b.address}/all{place}/"], timeout=RSYNC_SECONDS)
        found = re.search(r"Total bytes sent: ([\d,]+)", done.stdout)
        self.sent += int(found[1].replace(",", "")) if found else 0
