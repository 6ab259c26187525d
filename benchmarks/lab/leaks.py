"""What containers and migrations have left on a host: mounts, rooms for images, namespaces, directories, programs."""

from __future__ import annotations

from benchmarks.lab.hosts import Host

_SCRIPT = """
    grep -E 'fuse.voyfs /var/lib/voyager|migrator-images|criu' /proc/self/mountinfo
    ls -d /run/migrator/dump-* /run/migrator/restore-* 2>/dev/null
    ls -d /run/netns/* 2>/dev/null
    ls -d /var/lib/voyager/migrator/containers/* 2>/dev/null
    ls -d /var/lib/voyager/migrator/exports/* 2>/dev/null
    ls -d /run/runc/* /run/crun/* 2>/dev/null
    ip -br link | grep '^v-'
    ps -eoargs | grep -E '[v]oyfs.(cli|daemon|bulk)|[c]riu swrk|[r]unc? (checkpoint|restore)' | grep -v migrator.cli
    true
    """


def remains(host: Host) -> list[str]:
    """A line each."""
    return host.run(["sh"], input=_SCRIPT).stdout.splitlines()
