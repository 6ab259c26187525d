"""A container of the laboratory: its network and the runtime's commands for it, as an operator uses them by hand.

The network namespace is made here and not by the runtime ("external", named by its path), as container engines do: it
outlives the container, and a copy with the same name, MAC and IP can wait on another host.
"""

from __future__ import annotations

import json
import shlex
import socket
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any, Final

from benchmarks.lab.hosts import GATEWAY, PREFIX, Host
from benchmarks.lab.node import LabError

ADDRESS: Final = "10.77.0.100"  # hosts count up from 1
MAC: Final = "02:77:00:00:00:64"
READY_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Network:
    """A container's network identity; what must be the same on both hosts of a migration."""

    namespace: str
    address: str = ADDRESS
    mac: str = MAC
    gateway: str = GATEWAY

    @property
    def path(self) -> str:
        """Where the namespace is, inside the host."""
        return f"/run/netns/{self.namespace}"

    @property
    def port(self) -> str:
        """The host's end of the pair, on br0; interface names have at most 15 bytes."""
        return f"v-{self.namespace}"[:15]

    def create(self, host: Host, *, up: bool = True) -> None:
        """Make the namespace and plug it into br0; not UP leaves the host's end down, which cuts it off."""
        # An index of its own for the outer end: see Host._plug.
        index = 10_000 + zlib.crc32(self.namespace.encode()) % 10_000
        host.run(["ip", "netns", "add", self.namespace])
        script = f"""
            ip link add {self.port} index {index} master br0 type veth peer name eth0 netns {self.namespace}
            ip -n {self.namespace} -batch - <<-END
                link set lo up
                link set eth0 address {self.mac} up
                addr add {self.address}/{PREFIX} dev eth0
                route add default via {self.gateway} dev eth0 onlink
            END
            """
        host.run(["sh", "-e"], input="\n".join(line.strip() for line in script.splitlines()))
        if up:
            self.open(host)

    def open(self, host: Host) -> None:
        """Raise the host's end."""
        host.ip(f"link set {self.port} up")

    def cut(self, host: Host) -> None:
        """Lower the host's end: nothing comes in or goes out."""
        host.ip(f"link set {self.port} down")

    def announce(self, host: Host) -> None:
        """Make every bridge on the way learn where the address is now."""
        host.run(["ip", "netns", "exec", self.namespace, "ping", "-c1", "-W1", self.gateway])

    def remove(self, host: Host) -> None:
        """Take the namespace and the pair away; also dying connections in it, which would disturb a second try."""
        host.ip(f"link del {self.port}")
        host.run(["ip", "netns", "del", self.namespace])


@dataclass(frozen=True)
class Container:
    """A container's place on a host."""

    host: Host
    name: str
    bundle: PurePosixPath
    network: Network
    runtime: str = "runc"  # the program, or a path of it

    @property
    def rootfs(self) -> PurePosixPath:
        """The container's root, inside the host."""
        return self.bundle / "rootfs"

    @property
    def images(self) -> PurePosixPath:
        """Where `checkpoint` writes and `restore` reads, inside the host."""
        return self.bundle / "images"

    def at(self, host: Host) -> Container:
        """The same container's place on another host."""
        return replace(self, host=host)

    def runc(self, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Run the runtime; failure raises `LabError` with its log.

        Its outputs are /dev/null and not pipes, because a container inherits them: CRIU cannot dump a descriptor that
        points outside of the container, and a pipe would keep its reader waiting as long as the container runs.
        """
        log = f"/run/runc-{self.name}.log"
        command = f"rm -f {log}; {self.runtime} --log {log} {shlex.join(arguments)} >/dev/null 2>&1"
        result = self.host.run(["sh", "-c", command], check=False, env=env)
        if result.returncode != 0:
            output = self.host.run(["cat", log], check=False).stdout
            raise LabError(f"on {self.host.name}: {self.runtime} {shlex.join(arguments)}: {output.strip()}")

    def start(self) -> None:
        """Start it, detached."""
        self.runc("run", "-d", "--bundle", str(self.bundle), self.name)

    def checkpoint_command(self, *options: str) -> list[str]:
        """The arguments of `runc` for a checkpoint into `images`."""
        images = str(self.images)
        return ["checkpoint", *options, "--tcp-established", "--image-path", images, "--work-path", images, self.name]

    def restore_command(self, *options: str) -> list[str]:
        """The arguments of `runc` for a restore from `images`, detached."""
        images = str(self.images)
        paths = ["--image-path", images, "--work-path", images, "--bundle", str(self.bundle)]
        return ["restore", "-d", *options, "--tcp-established", *paths, self.name]

    def state(self) -> dict[str, Any]:
        """What the runtime says of it; empty when it knows no such container."""
        result = self.host.run([self.runtime, "state", self.name], check=False)
        state: dict[str, Any] = json.loads(result.stdout) if result.returncode == 0 else {}
        return state

    @property
    def status(self) -> str:
        """running, paused, stopped; or "" when there is none."""
        return str(self.state().get("status", ""))

    def wait_port(self, port: int) -> None:
        """Wait until something listens on the container's PORT."""
        deadline = time.monotonic() + READY_SECONDS

        def connect() -> None:
            socket.create_connection((self.network.address, port), timeout=1).close()

        while True:
            try:
                return self.host.call(connect)
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(f"{self.name} on {self.host.name} does not listen on {port}: {error}") from error
                time.sleep(0.005)

    def delete(self) -> None:
        """Kill and delete it, whatever its state; its files and its network stay.

        The mount comes first: a restore that was killed leaves the container's root bound there, and `runc delete`
        would delete the root's contents through it.
        """
        self.host.run(["umount", "-l", f"/run/{self.runtime.rpartition('/')[2]}/{self.name}/criu-root"], check=False)
        self.runc("delete", "-f", self.name)
