"""Whether the target is a host like the source, as far as the container would notice: more rows of `preflight`.

Pure: facts in, rows out. It must not look anything up.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from migrator.core import limits
from migrator.core.errors import Insecure, NoSpace, NotReady, Unsupported
from migrator.core.host import FEATURES, UNLIMITED, Needs
from migrator.core.plan import Container
from migrator.core.preflight import HostFacts, Row, SourceFacts, TargetFacts
from migrator.core.timeline import human_bytes

# A container's clocks leap by the difference; it takes that as it takes a correction by NTP, up to a point.
CLOCK_SECONDS: Final = 1.0
CERTIFICATE_SECONDS: Final = 7 * 86400.0
_NOT_MOVED: Final = frozenset({"mem_dirty_track", "uffd-noncoop"})  # ways of moving memory, not needs of a container


def source_rows(container: Container, facts: SourceFacts) -> list[Row]:
    """What can be told of the container's processes, and of the source, without the target."""
    return [_processes(container, facts.needs), _users(container, facts), _certificate(facts.host)]


def target_rows(container: Container, source: SourceFacts, target: TargetFacts) -> list[Row]:
    """What the target lacks of the source."""
    needs = source.needs
    return [
        _certificate(target.host),
        *_programs(source.host, target.host),
        _cpu(needs, target),
        _kernel(needs, source.host, target.host),
        _cgroups(source.host, target.host),
        _limits(container, needs, target.host),
        _security(container, needs, target.host),
        _paths(container, needs, target),
        *_space(needs, target),
        _clock(source.host, target.host),
    ]


def _processes(container: Container, needs: Needs) -> Row:
    count = f"{needs.processes} processes" if needs.processes != 1 else "1 process"
    if not needs.problems:
        return Row("processes", "source", found=count)
    more = f" (and {len(needs.problems) - 1} more)" if len(needs.problems) > 1 else ""
    return Row(
        "processes",
        "source",
        f"in container {container.name}, {needs.problems[0]}, which cannot be moved{more}",
        "close or end it, or make the container without it",
        Unsupported,
    )


def _users(container: Container, facts: SourceFacts) -> Row:
    """CRIU reads each task's limits by prlimit(2), which asks for this of whoever is not the task's own user."""
    denied = facts.needs.other_users and not facts.host.traits.raises_limits
    return Row(
        "users",
        "source",
        f"container {container.name} has processes of users whose limits the source's agent may not read"
        if denied
        else "",
        "give the agent CAP_SYS_RESOURCE",
    )


def _certificate(host: HostFacts) -> Row:
    expires, now = host.traits.certificate_expires, host.traits.wall
    if not expires:
        return Row("certificate", host.name, found="none: loopback alone")
    left = expires - now
    days = f"{left / 86400:.0f} days left"
    if left > CERTIFICATE_SECONDS:
        return Row("certificate", host.name, found=days)
    problem = f"the {host.name}'s certificate has expired" if left <= 0 else f"the {host.name}'s certificate has {days}"
    return Row("certificate", host.name, problem, "make a new one: 'voyfs certs host'", Insecure, warning=left > 0)


def _programs(source: HostFacts, target: HostFacts) -> Iterator[Row]:
    ours, theirs = source.runtime_program.rpartition("/")[2], target.runtime_program.rpartition("/")[2]
    if ours != theirs:
        yield Row(
            "same runtime",
            "target",
            f"the source runs containers with {ours}, the target with {theirs}: neither reads the other's checkpoints",
            f"start the target's agent with --runtime {ours}",
        )
    else:
        yield Row("same runtime", "target", found=ours)
    had, has = version(source.criu), version(target.criu)
    older = bool(had and has and has < had)
    yield Row(
        "same criu",
        "target",
        f"the target's CRIU ({target.criu}) is older than the source's ({source.criu}), and may not read its images"
        if older
        else "",
        "install the same version on both, or a later one on the target",
        found="not older than the source's" if had and has else "",
        warning=had[:1] == has[:1],
    )


def version(text: str) -> tuple[int, ...]:
    """The first two numbers of a version in a line; empty if there is none."""
    found = re.search(r"(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else ()


def _cpu(needs: Needs, target: TargetFacts) -> Row:
    if needs.cpu_problem:
        return Row(
            "cpu",
            "source",
            f"CRIU cannot tell the source's CPU: {needs.cpu_problem}",
            "see 'criu cpuinfo'",
            warning=True,
        )
    return Row(
        "cpu",
        "target",
        f"the target's CPU lacks what the source's has: {target.cpu_problem}" if target.cpu_problem else "",
        "move it to a host with the same kind of CPU",
        found="has all that the source's has" if needs.cpu else "",
    )


def _kernel(needs: Needs, source: HostFacts, target: HostFacts) -> Row:
    mine, other = source.traits, target.traits
    if mine.architecture != other.architecture:
        return Row(
            "kernel",
            "target",
            f"the source is {mine.architecture}, the target {other.architecture}",
            "move it to a host of the same architecture",
        )
    lacking = [FEATURES[name] for name in needs.features if name not in other.features]
    return Row(
        "kernel",
        "target",
        f"CRIU finds no support there for: {', '.join(lacking)} (kernel {other.kernel})" if lacking else "",
        "use a kernel there that has it; 'criu check --all' names what is missing",
        found=f"{other.kernel}, source {mine.kernel}; "
        + ", ".join(f"{FEATURES[name]}: {'yes' if name in other.features else 'no'}" for name in sorted(_NOT_MOVED)),
    )


def _cgroups(source: HostFacts, target: HostFacts) -> Row:
    ours, theirs = source.traits.cgroups, target.traits.cgroups
    # Of a hybrid host, containers are in the v1 hierarchies.
    differ = bool(ours and theirs) and (ours == "v2") != (theirs == "v2")
    return Row(
        "cgroups",
        "target",
        f"the source's containers are in cgroup {ours}, the target's in {theirs}" if differ else "",
        "boot one of them with the other's mode (systemd.unified_cgroup_hierarchy)",
        found=theirs,
    )


def _limits(container: Container, needs: Needs, target: HostFacts) -> Row:
    traits = target.traits
    low = [
        f"{name} {_limit(wanted)} (there at most {_limit(traits.limits[name])})"
        for name, wanted in sorted(needs.limits.items())
        if name in traits.limits and wanted > traits.limits[name]
    ]
    return Row(
        "rlimits",
        "target",
        f"container {container.name} has limits that the target may not set: {', '.join(low)}"
        if low and not traits.raises_limits
        else "",
        "give the target's agent CAP_SYS_RESOURCE, or start it with these limits",
        found="may raise them" if traits.raises_limits else "high enough",
    )


def _limit(value: int) -> str:
    return "unlimited" if value >= UNLIMITED else str(value)


def _security(container: Container, needs: Needs, target: HostFacts) -> Row:
    traits = target.traits
    problem, remedy = "", ""
    if needs.apparmor not in ("", "unconfined") and needs.apparmor not in traits.profiles:
        problem = (
            f"container {container.name} has the AppArmor profile {needs.apparmor}, which the target has not loaded"
        )
        remedy = "load the profile there"
    elif needs.selinux and "selinux" not in traits.security:
        problem = f"container {container.name} has the SELinux label {needs.selinux}, and the target has no SELinux"
        remedy = "enable SELinux there, or make the container without a label"
    elif needs.seccomp and not traits.seccomp:
        problem = f"container {container.name} filters system calls, and the target's kernel cannot"
        remedy = "use a kernel with CONFIG_SECCOMP_FILTER there"
    names = ", ".join(traits.security) or "no module"
    return Row("security", "target", problem, remedy, found=f"{names}; seccomp: {'yes' if traits.seccomp else 'no'}")


def _paths(container: Container, needs: Needs, target: TargetFacts) -> Row:
    return Row(
        "paths",
        "target",
        f"container {container.name} needs {', '.join(target.missing)} of its host, and the target has not"
        if target.missing
        else "",
        "put the same there",
        found=", ".join(needs.paths),
    )


def _space(needs: Needs, target: TargetFacts) -> Iterator[Row]:
    wanted = needs.disk_bytes + limits.STORE_BYTES
    atleast = "" if needs.disk_counted else "more than "
    yield Row(
        "whole disk",
        "target",
        f"the container's files take {atleast}{human_bytes(needs.disk_bytes)}, and the target has "
        f"{human_bytes(target.disk_free)} left for {target.directory}"
        if wanted > target.disk_free
        else "",
        "free space there",
        NoSpace,
        f"{human_bytes(target.disk_free)} free, {atleast}{human_bytes(needs.disk_bytes)} to come",
    )
    yield Row(
        "inodes",
        "target",
        f"the container has {atleast}{needs.disk_files} files, and the target has room for {target.inodes_free}"
        if 0 <= target.inodes_free < needs.disk_files
        else "",
        "use a file system there that has more inodes",
        NoSpace,
        f"{target.inodes_free if target.inodes_free >= 0 else 'enough'} free, {atleast}{needs.disk_files} to come",
    )


def _clock(source: HostFacts, target: HostFacts) -> Row:
    ahead = target.traits.wall - source.traits.wall
    way = "ahead of" if ahead > 0 else "behind"
    return Row(
        "clock",
        "target",
        f"the target's clock is {abs(ahead):.1f} s {way} the source's, and so will the container's be"
        if abs(ahead) > CLOCK_SECONDS
        else "",
        "synchronise both hosts' clocks",
        NotReady,
        f"{abs(ahead) * 1000:.0f} ms apart",
        warning=True,
    )
