"""An OCI runtime (runc, or another with the same command line) and CRIU below it (ports.Runtime).

It must not know of networks, peers or the order of a migration. CRIU is told to leave the network alone: the
container's port is down whenever it is dumped or restored, and CRIU's own lock costs time and stays behind when it is
killed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from migrator import images, leftovers, procfs, procs, syscalls
from migrator.core import bundle, limits, warm
from migrator.core.argv import RuntimeCommand, Tls, criu_options
from migrator.core.errors import ContainerNotRunning, ContainerUnknown, RuntimeFailed
from migrator.core.hook import Mode
from migrator.core.plan import Container, Order, is_name
from migrator.core.preflight import HostFacts
from migrator.core.volumes import owner
from migrator.dumping import SERVING, RuntimeDump
from migrator.freezer import Freezer
from migrator.restoring import RuntimeRestore
from migrator.tools import Tool, first_line

CAP_SYS_RESOURCE: Final = 24


class OciRuntime:
    """See ports.Runtime."""

    def __init__(self, command: RuntimeCommand, run_directory: Path, tls: Tls | None = None) -> None:
        """RUN_DIRECTORY: where rooms for images are made; nothing in it outlives the machine.

        TLS: what CRIU encrypts pages with that it sends by itself.
        """
        self._command = command
        self._run = run_directory
        options, closing = run_directory / "criu.conf", run_directory / "criu-closing.conf"
        options.write_text(criu_options(tls))
        closing.write_text(criu_options(tls) + "tcp-close\n")
        self._tool = Tool(CRIU_CONFIG_FILE=str(options))
        self._closing = Tool(CRIU_CONFIG_FILE=str(closing))  # for containers whose connections cannot go on

    def facts(self, host: str, voyfs_problem: str) -> HostFacts:
        """It also leaves warm what would be cold in a freeze: CRIU's cache of kernel features, and what it runs."""
        for program in ("tar", "gzip"):  # a container's tmpfs mounts travel as their archives
            self._tool.output([program, "--version"])
        criu = first_line(self._tool.output(["criu", "--version"]))
        check = self._tool.run(["criu", "check"]) if criu else None
        return HostFacts(
            name=host,
            runtime=first_line(self._tool.output(self._command.version())),
            runtime_program=self._command.program,
            criu=criu,
            criu_problem=_last_error(check) if check is not None and check.returncode else "",
            voyfs_problem=voyfs_problem,
            memory_free=_memory_available(),
            pipe_bytes=_pipe_bytes(),
            lazy_pages="--lazy-pages" in self._tool.output(self._command.checkpoint_help()),
        )

    def inspect(self, name: str) -> Container:
        """The container with its config, processes and cgroup."""
        state = self._state(name)
        if state is None:
            raise ContainerUnknown(
                f"there is no container '{name}' on this host",
                remedy=f"see '{self._command.program} list' for the names",
            )
        if state["status"] != "running":
            remedy = f"resume it first: {self._command.program} resume {name}" if state["status"] == "paused" else ""
            raise ContainerNotRunning(
                f"container '{name}' is {state['status']}, not running", remedy=remedy or "start it first"
            )
        pid, directory = int(state["pid"]), Path(state["bundle"])
        config = _read_config(directory)
        # runc tells an absolute path, crun what the config says.
        root = directory / (state.get("rootfs") or config.get("root", {}).get("path", "rootfs"))
        freezer = Freezer.of(pid)
        private, shared = procfs.memory(freezer.pids())
        return Container(
            name=name,
            pid=pid,
            bundle=str(directory),
            root=str(root),
            config=config,
            cgroup=str(freezer.directory),
            memory_bytes=private + shared,
            shared_bytes=shared,
            pipes=tuple(number for number in range(3) if procfs.link(f"/proc/{pid}/fd/{number}").startswith("pipe:")),
            root_is_directory=root.is_dir(),
            tmpfs_bytes=procfs.tmpfs(pid, [bind.destination for bind in bundle.bind_mounts(config, {})]),
        )

    def exists(self, name: str) -> bool:
        """Whether a state of that name is kept, also a broken one; a name that no container can have exists nowhere."""
        return is_name(name) and (self._state_directory(name).exists() or self._state(name) is not None)

    def containers(self) -> list[dict[str, Any]]:
        """All containers; raises RuntimeFailed."""
        done = self._tool.checked(self._command.all_states(), "listing containers")
        return [
            {key: each.get(key) for key in ("id", "status", "pid", "bundle")}
            for each in json.loads(done or "null") or []
        ]

    def host_files(self, container: Container) -> Mapping[str, bytes]:
        """See ports.Runtime."""
        found = {}
        for mount in bundle.bind_mounts(container.config, {}):
            path = Path(mount.source)
            if path.is_file() and path.stat().st_size <= bundle.HOST_FILE_BYTES:
                found[mount.source] = path.read_bytes()
        return found

    def warm(self, container: Container, volumes: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """From /proc of all its processes; large files are only looked up."""
        maps, opened, written = procfs.files(Freezer(Path(container.cgroup)).pids())
        mounts = [place for place in bundle.mount_points(container.config) if place not in volumes]
        fetch, look_up = warm.warm_paths(maps, opened, mounts, written)
        trees = [container.root, *volumes.values()]

        def size(path: str) -> int:
            number, inside = owner(path, list(volumes))
            return _size(trees[number + 1] + inside)

        return [path for path in fetch if size(path) <= limits.WARM_FILE_BYTES], [*look_up, *volumes]

    def live(self, container: Container) -> list[str]:
        """See ports.Runtime."""
        maps, _, written = procfs.files(Freezer(Path(container.cgroup)).pids())
        return warm.live_paths(maps, written)

    def prepare_dump(
        self, container: Container, migration: str, serve_on: str = "", *, connections: bool = True
    ) -> RuntimeDump:
        """See ports.Runtime."""
        room = images.Room(self._run / f"dump-{migration}").make()
        try:
            return RuntimeDump(*self._with(connections), container, room, serve_on)
        except BaseException:
            room.remove()
            raise

    def resume(self, container: Container) -> None:
        """See ports.Runtime."""
        Freezer(Path(container.cgroup)).thaw()

    def destroy(self, name: str, bundle: str) -> None:
        """See ports.Runtime. Also what a killed restore has left of one: tasks, groups, a state that is none.

        What is mounted below its state goes first: CRIU binds the container's root there, and a runtime that deletes
        the state deletes the root's contents through it.
        """
        directory = self._state_directory(name)
        done = self._tool.run(self._command.state(name))
        state = json.loads(done.stdout) if done.returncode == 0 else {}
        if state and os.path.realpath(state["bundle"]) != os.path.realpath(bundle):
            return
        try:
            syscalls.unmount_below(str(directory))
        except OSError as error:
            raise RuntimeFailed(
                f"cannot unmount what is below {directory}: {error.strerror}",
                remedy=f"unmount it, and only then delete container {name}",
            ) from error
        pid = int(state.get("pid") or 0)
        if pid > 0 and Path(f"/proc/{pid}").exists():
            Freezer.of(pid).kill(limits.PAUSE_SECONDS)
        if done.returncode == 0:
            self._tool.checked(self._command.delete(name), f"deleting container {name}")
        elif directory.exists():
            leftovers.remove_groups(name, limits.PAUSE_SECONDS)
            leftovers.remove_state(directory)

    def settle(self, migration: str) -> None:
        """See ports.Runtime. CRIU is waited for and not killed: a task that it leaves half-way is lost.

        One that has made its images and only serves pages has left all tasks as they were.
        """
        room = images.Room(self._run / f"dump-{migration}")
        if (room.work / SERVING).exists():
            procs.kill_users(str(room.directory))
        procs.wait_unused(str(room.directory), limits.RUNTIME_SECONDS)
        room.remove()

    def prepare_restore(self, order: Order, directory: str, config: Mapping[str, Any]) -> RuntimeRestore:
        """See ports.Runtime."""
        keeps = Mode(order.network).keeps_connections
        restore = self._restore(order.migration, order.container, directory, connections=keeps)
        restore.room.make()
        try:
            restore.make_bundle(config, order)
        except BaseException:
            restore.room.remove()
            raise
        return restore

    def adopt_restore(self, migration: str, container: str, directory: str) -> RuntimeRestore:
        """See ports.Runtime."""
        return self._restore(migration, container, directory)

    def _restore(self, migration: str, container: str, directory: str, *, connections: bool = True) -> RuntimeRestore:
        room = images.Room(self._run / f"restore-{migration}")
        return RuntimeRestore(*self._with(connections), container, Path(directory), room, self.destroy)

    def _with(self, connections: bool) -> tuple[RuntimeCommand, Tool]:
        """How the runtime, and CRIU below it, are told to keep connections, or to close them."""
        if connections:
            return self._command, self._tool
        return replace(self._command, connections=False), self._closing

    def _state(self, name: str) -> dict[str, Any] | None:
        """None: there is no such container. Raises RuntimeFailed where the runtime cannot tell."""
        if not is_name(name):
            return None
        done = self._tool.run(self._command.state(name))
        if done.returncode == 0:
            state: dict[str, Any] = json.loads(done.stdout)
            return state
        if not self._state_directory(name).exists():
            return None
        raise RuntimeFailed(f"{self._command.program} cannot tell the state of {name}: {_last_error(done)}")

    def _state_directory(self, name: str) -> Path:
        root = self._command.root
        return Path(root) / name if root else Path("/run", self._command.program.rpartition("/")[2], name)


def _read_config(directory: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((directory / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise RuntimeFailed(f"cannot read {directory}/config.json: {error}") from error
    return config


def _last_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return (errors or lines or [f"status {done.returncode}"])[0].strip()


def _memory_available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _pipe_bytes() -> int:
    """The largest pipe that a program of ours may make."""
    allowed = int(Path("/proc/sys/fs/pipe-max-size").read_text())
    capabilities = next(
        int(line.split()[1], 16) for line in Path("/proc/self/status").read_text().splitlines() if "CapEff" in line
    )
    return 1 << 31 if capabilities >> CAP_SYS_RESOURCE & 1 else allowed


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return 0
