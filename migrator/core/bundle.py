"""What an OCI `config.json` says about moving its container, and the config that the target runs it with.

Pure: dictionaries in, values and dictionaries out. It must not read files; what a bind mount's source is on disk
comes in as facts.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

# A read-only bind mount of a small regular file (resolv.conf, hosts, a certificate) is re-created on the target from
# its content. The bound keeps such content a matter of one message; real data belongs to a volume.
HOST_FILE_BYTES: Final = 1 << 20

_NO_DISK: Final = frozenset({"proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2"})


@dataclass(frozen=True, slots=True)
class BindMount:
    """A mount of the config that shows a place of the host, and what lies there (`size` -1: not a regular file)."""

    destination: str
    source: str
    read_only: bool
    size: int

    @property
    def is_host_file(self) -> bool:
        """Whether it can be re-created on the target from its content."""
        return self.read_only and 0 <= self.size <= HOST_FILE_BYTES


def has_terminal(config: Mapping[str, Any]) -> bool:
    """Whether the container was made with a terminal."""
    return bool(config.get("process", {}).get("terminal", False))


def network_namespace(config: Mapping[str, Any]) -> str | None:
    """Path of the network namespace; empty: a new one of the runtime's; None: the host's."""
    for namespace in config.get("linux", {}).get("namespaces", []):
        if namespace.get("type") == "network":
            return str(namespace.get("path", ""))
    return None


def foreign_namespaces(config: Mapping[str, Any]) -> list[str]:
    """Types of the namespaces, the network's apart, that the container shares with something else by their path."""
    namespaces = config.get("linux", {}).get("namespaces", [])
    return [str(each["type"]) for each in namespaces if each.get("path") and each.get("type") != "network"]


def hook_programs(config: Mapping[str, Any]) -> list[str]:
    """Paths of the programs that the config's hooks run on the host."""
    hooks = (config.get("hooks") or {}).values()
    return sorted({str(hook["path"]) for stage in hooks for hook in stage or []})


def is_bind(mount: Mapping[str, Any]) -> bool:
    """Whether a mount of the config shows a place of the host."""
    return mount.get("type") in ("bind", "rbind") or bool({"bind", "rbind"} & set(mount.get("options") or []))


def bind_mounts(config: Mapping[str, Any], sizes: Mapping[str, int]) -> list[BindMount]:
    """The bind mounts; SIZES gives the size of each source that is a regular file."""
    return [
        BindMount(
            destination=str(mount["destination"]),
            source=str(mount.get("source", "")),
            read_only="ro" in (mount.get("options") or []),
            size=sizes.get(str(mount.get("source", "")), -1),
        )
        for mount in config.get("mounts") or []
        if is_bind(mount)
    ]


def unknown_mounts(config: Mapping[str, Any]) -> list[str]:
    """Mounts that are neither bind mounts nor of a type without a disk: "DESTINATION (TYPE)"."""
    return [
        f"{mount['destination']} ({mount.get('type', 'none')})"
        for mount in config.get("mounts") or []
        if not is_bind(mount) and mount.get("type") not in _NO_DISK
    ]


def mount_points(config: Mapping[str, Any]) -> list[str]:
    """Places in the container that something is mounted on."""
    return [str(mount["destination"]) for mount in config.get("mounts") or []]


def for_target(config: Mapping[str, Any], root: PurePosixPath, files: Mapping[str, PurePosixPath]) -> dict[str, Any]:
    """The config for the target: its root is ROOT, and bind mounts in FILES (by destination) show the new places."""
    result: dict[str, Any] = copy.deepcopy(dict(config))
    result["root"] = {**result.get("root", {}), "path": str(root)}
    for mount in result.get("mounts") or []:
        if is_bind(mount) and mount["destination"] in files:
            mount["source"] = str(files[mount["destination"]])
    return result
