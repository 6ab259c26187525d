"""What a host is besides the programs on it, and what a container needs of the host that it is moved to.

Pure values. It must not know how they are found, nor how they travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

# Names of /proc/PID/limits, shortened to those of prlimit(2); a hard limit can be raised with CAP_SYS_RESOURCE alone.
UNLIMITED: Final = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Traits:
    """One host. Empty: could not be found out."""

    kernel: str = ""  # release
    architecture: str = ""
    cgroups: str = ""  # "v1", "v2", or "hybrid" (v1 beside v2)
    security: tuple[str, ...] = ()  # Linux security modules that are active
    profiles: tuple[str, ...] = ()  # AppArmor profiles that are loaded
    seccomp: bool = True  # whether the kernel filters system calls
    limits: Mapping[str, int] = field(default_factory=dict)  # hard limits of the agent
    raises_limits: bool = True  # whether it may raise them
    features: tuple[str, ...] = ()  # of those in `FEATURES`, what CRIU finds in the kernel
    wall: float = 0.0  # seconds since the epoch, now
    certificate_expires: float = 0.0  # seconds since the epoch; 0: it has none


# What `criu check --feature` is asked for: features that a container can need, or a mode of moving memory.
FEATURES: Final[Mapping[str, str]] = {
    "seccomp_filters": "system call filters",
    "fdinfo_lock": "file locks",
    "external_net_ns": "network namespaces given by a path",
    "cgroupns": "cgroup namespaces",
    "timens": "time namespaces",
    "tcp_half_closed": "half-closed TCP connections",
    "mem_dirty_track": "memory in rounds before the freeze",
    "uffd-noncoop": "memory after the container runs",
}


@dataclass(frozen=True, slots=True)
class Needs:
    """What a running container needs of a host."""

    cpu: bytes = b""  # CRIU's image of the CPU that it runs on; empty: it could not be made
    cpu_problem: str = ""  # why not
    limits: Mapping[str, int] = field(default_factory=dict)  # the highest hard limits of its processes
    apparmor: str = ""  # profile
    selinux: str = ""  # label
    seccomp: bool = False
    features: tuple[str, ...] = ()  # of FEATURES
    paths: tuple[str, ...] = ()  # of the host, that must exist on the other one as well
    disk_bytes: int = 0  # allocated in its root and volumes
    disk_files: int = 0
    disk_counted: bool = True  # False: there is more than that; counting took too long
    processes: int = 0
    other_users: bool = False  # whether any of them runs as another user or group than the agent
    problems: tuple[str, ...] = ()  # what CRIU cannot dump, a line each
