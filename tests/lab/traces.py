"""What a lab could leave behind on the machine."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.lab.hosts import Lab

GONE_SECONDS = 30.0


def processes(lab_id: str) -> list[int]:
    """Processes of the lab: keepers and inits name it in argv, and all others are in a cgroup that does."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "cgroup").read_bytes()
            except OSError:
                continue
            if lab_id.encode() in text:
                found.append(int(entry.name))
    return found


def of(lab_id: str, directory: Path) -> list[str]:
    """All traces of a lab on the machine, by kind."""
    found = [f"process {pid}" for pid in processes(lab_id)]
    found += [f"cgroup {path}" for path, *_ in os.walk("/sys/fs/cgroup") if f"voyager-lab-{lab_id}-" in path]
    found += [f"mount {line}" for line in Path("/proc/self/mountinfo").read_text().splitlines() if lab_id in line]
    found += [f"file {directory}"] if directory.exists() else []
    return found


def visible_names() -> set[str]:
    """Names in the machine's own namespaces that a careless lab would take."""
    names = set(os.listdir("/sys/class/net"))
    namespaces = Path("/run/netns")
    return names | {f"netns {path.name}" for path in (namespaces.iterdir() if namespaces.exists() else ())}


def wait_gone(lab: Lab | str, directory: Path) -> list[str]:
    """The traces that are left when all are gone, or when the time is up."""
    lab_id = lab if isinstance(lab, str) else lab.id
    deadline = time.monotonic() + GONE_SECONDS
    while (left := of(lab_id, directory)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left
