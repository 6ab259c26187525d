"""Looks at this host and at a container's processes before anything is touched (ports.Inspector).

Everything is read from /proc and from CRIU. It must not know of the order of a migration, nor what follows from what
it finds: that is told by `core.suitability` and `core.processes`.
"""

from __future__ import annotations

import os
import platform
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from migrator import certificate, procfs
from migrator.core import bundle
from migrator.core import processes as rules
from migrator.core.argv import Tls
from migrator.core.host import FEATURES, UNLIMITED, Needs, Traits
from migrator.core.plan import Container
from migrator.core.volumes import Kind, Place, Volume, lazy
from migrator.freezer import Freezer, cgroup_mounts
from migrator.tools import Tool, first_line

CAP_SYS_RESOURCE: Final = 24
PROFILES: Final = 1024  # AppArmor profiles that are told of; distributions load some hundred
# Until its marks are cleared, which takes some 0.1 s here, a process waits for memory that it maps.
WATCHED_BYTES: Final = 4 << 30
# A count of files is worth waiting for as long as a person waits for a table: a million of them take about this.
COUNT_SECONDS: Final = 5.0


class HostInspector:
    """See ports.Inspector."""

    def __init__(self, material: Tls | None) -> None:
        """MATERIAL: the agent's certificate, whose end is told of."""
        self._material = material
        self._tool = Tool()
        self._features: dict[str, tuple[str, ...]] = {}  # by CRIU's version: the kernel stays the same

    def traits(self) -> Traits:
        """See ports.Inspector."""
        security = procfs.read("/sys/kernel/security/lsm").strip()
        names = [line.split(" (")[0] for line in procfs.read("/sys/kernel/security/apparmor/profiles").splitlines()]
        return Traits(
            kernel=platform.release(),
            architecture=platform.machine(),
            cgroups=_cgroups(),
            security=tuple(security.split(",")) if security else (),
            profiles=tuple(names[:PROFILES]),
            seccomp="Seccomp_filters" in procfs.read("/proc/self/status"),
            limits={name: _hard(number) for name, number in _LIMITS.items()},
            raises_limits=has_capability(CAP_SYS_RESOURCE),
            features=self._known_features(),
            certificate_expires=certificate.expires(self._material) if self._material else 0.0,
            wall=time.time(),
        )

    def places(self, sources: Sequence[str]) -> Mapping[str, Place]:
        """See ports.Inspector."""
        return {source: procfs.place(source) for source in sources if os.path.exists(source)}

    def needs(self, container: Container, volumes: Sequence[Volume]) -> Needs:
        """See ports.Inspector."""
        config = container.config
        pids = Freezer(Path(container.cgroup)).pids()
        found = procfs.processes(pids, container.pid)
        trees = [container.root, *(volume.source for volume in lazy(volumes))]
        size, files, counted = count_trees([tree for tree in trees if os.path.isdir(tree)], COUNT_SECONDS)
        there = [each.source for each in volumes if each.kind is Kind.REMOUNT and not each.remade]
        behind = [each.destination for each in volumes if each.kind is Kind.SKIP]
        cpu, cpu_problem = self._cpu()
        process = config.get("process", {})
        return Needs(
            cpu=cpu,
            cpu_problem=cpu_problem,
            limits=_highest(pids),
            apparmor=str(process.get("apparmorProfile") or ""),
            selinux=str(process.get("selinuxLabel") or ""),
            seccomp=bool(config.get("linux", {}).get("seccomp")),
            features=tuple(sorted(_features(config))),
            paths=(*bundle.hook_programs(config), *there),
            disk_bytes=size,
            disk_files=files,
            disk_counted=counted,
            processes=len(found),
            other_users=any(each.owners - {os.getuid(), os.getgid()} for each in found),
            problems=tuple(rules.problems(found, container.pid, behind)),
        )

    def changing(self, container: Container) -> Callable[[], float | None]:
        """See ports.Inspector."""
        if container.memory_bytes > WATCHED_BYTES:
            return lambda: None
        pids = Freezer(Path(container.cgroup)).pids()
        procfs.forget_touched(pids)
        began = time.monotonic()

        def rate() -> float:
            return min(procfs.touched(pids), container.memory_bytes) / (time.monotonic() - began)

        return rate

    def cpu_problem(self, image: bytes) -> str:
        """See ports.Inspector."""
        if not image:
            return ""
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "cpuinfo.img").write_bytes(image)
            done = self._tool.run(["criu", "cpuinfo", "check", "-D", directory])
        if done.returncode == 0:
            return ""
        said = [line for line in (done.stdout + done.stderr).splitlines() if "rror" in line]
        return said[0].partition(": ")[2].strip() if said else f"'criu cpuinfo check' gives {done.returncode}"

    def missing(self, paths: Sequence[str]) -> tuple[str, ...]:
        """See ports.Inspector."""
        return tuple(path for path in paths if not os.path.exists(path))

    def inodes_free(self, directory: str) -> int:
        """See ports.Inspector."""
        place = Path(directory)
        while not place.exists():
            place = place.parent
        found = os.statvfs(place)
        return found.f_favail if found.f_files else -1

    def _cpu(self) -> tuple[bytes, str]:
        with tempfile.TemporaryDirectory() as directory:
            done = self._tool.run(["criu", "cpuinfo", "dump", "-D", directory])
            try:
                return Path(directory, "cpuinfo.img").read_bytes(), ""
            except OSError:
                return b"", first_line(done.stdout + done.stderr, last=True) or f"status {done.returncode}"

    def _known_features(self) -> tuple[str, ...]:
        version = first_line(self._tool.output(["criu", "--version"]))
        if version and version not in self._features:
            with ThreadPoolExecutor(len(FEATURES)) as pool:
                there = pool.map(lambda name: self._tool.run(["criu", "check", "--feature", name]).returncode, FEATURES)
                self._features[version] = tuple(
                    name for name, status in zip(FEATURES, there, strict=True) if not status
                )
        return self._features.get(version, ())


_LIMITS: Final[Mapping[str, int]] = {
    name.removeprefix("RLIMIT_").lower(): number
    for name, number in vars(resource).items()
    if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"  # another name of NOFILE
}
# As /proc/PID/limits calls them.
_TITLES: Final[Mapping[str, str]] = {
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max core file size": "core",
    "Max resident set": "rss",
    "Max processes": "nproc",
    "Max open files": "nofile",
    "Max locked memory": "memlock",
    "Max address space": "as",
    "Max pending signals": "sigpending",
    "Max msgqueue size": "msgqueue",
    "Max nice priority": "nice",
    "Max realtime priority": "rtprio",
    "Max realtime timeout": "rttime",
}


def _hard(number: int) -> int:
    value = resource.getrlimit(number)[1]
    return UNLIMITED if value == resource.RLIM_INFINITY else value


def _highest(pids: Sequence[int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for pid in pids:
        for line in procfs.read(f"/proc/{pid}/limits").splitlines():
            name = _TITLES.get(line[:25].strip())
            words = line[25:].split()
            if name and len(words) > 1:
                value = UNLIMITED if words[1] == "unlimited" else int(words[1])
                found[name] = max(found.get(name, 0), value)
    return found


def has_capability(number: int) -> bool:
    """Whether this process has an effective capability (linux/capability.h)."""
    for line in procfs.read("/proc/self/status").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def _cgroups() -> str:
    kinds = {kind for _, _, kind, _ in cgroup_mounts()}
    return {(True, True): "hybrid", (True, False): "v1", (False, True): "v2"}.get(
        ("cgroup" in kinds, "cgroup2" in kinds), ""
    )


def _features(config: Mapping[str, Any]) -> Iterator[str]:
    """What CRIU must find in the kernel for a container of this config."""
    linux = config.get("linux", {})
    kinds = {str(each.get("type")) for each in linux.get("namespaces", [])}
    yield "fdinfo_lock"
    if linux.get("seccomp"):
        yield "seccomp_filters"
    if bundle.network_namespace(config):
        yield "external_net_ns"
    if "cgroup" in kinds:
        yield "cgroupns"
    if "time" in kinds:
        yield "timens"


def count_trees(roots: Sequence[str], seconds: float) -> tuple[int, int, bool]:
    """Allocated bytes and number of entries of trees, each on its one file system; whether all were seen in time."""
    deadline = time.monotonic() + seconds
    size = files = 0
    seen: set[tuple[int, int]] = set()
    for root in roots:
        pending = [root]
        device = os.lstat(root).st_dev
        while pending:
            if time.monotonic() > deadline:
                return size, files, False
            try:
                entries = list(os.scandir(pending.pop()))
            except OSError:
                continue
            for entry in entries:
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if found.st_dev != device or (found.st_nlink > 1 and (found.st_dev, found.st_ino) in seen):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                elif found.st_nlink > 1:
                    seen.add((found.st_dev, found.st_ino))
                files += 1
                size += found.st_blocks * 512
    return size, files, True
