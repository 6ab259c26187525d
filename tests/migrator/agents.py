"""Agents on the hosts of a laboratory, as an operator runs them."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from benchmarks.lab import tls
from benchmarks.lab.hosts import Host

PORT = 7878
STATE = Host.data / "migrator"
LOG = Host.data / "agent.log"
SECONDS = 180.0
MIGRATOR = (sys.executable, "-m", "migrator.cli")

Event = dict[str, Any]


class AgentFailed(RuntimeError):
    """An agent that did not start, with what it said."""


@dataclass
class Agent:
    """An agent on a host, started and stopped at will."""

    host: Host
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    state: PurePosixPath = STATE
    process: subprocess.Popen[str] | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        return f"{self.host.address}:{PORT}"

    def start(self) -> None:
        """Return when it answers."""
        words = [*MIGRATOR, "agent", "--listen", self.address, "--state", str(self.state), *self.options]
        if "--cert" not in self.options:
            words += tls.options(self.host)
        command = f"exec {shlex.join(words)} 2>>{LOG}"
        self.process = self.host.popen(["sh", "-c", command], env=dict(self.environment), stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            if not lines.readline().startswith("agent listens on "):
                raise AgentFailed(self.log())

    def stop(self) -> None:
        """End it as an operator does."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(SECONDS) == 0

    def kill(self) -> None:
        """End it as a fault does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(SECONDS)

    def log(self) -> str:
        return self.host.path_of(LOG).read_text()

    def migrator(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The command line on this host."""
        return run_migrator(self.host, *words)

    def migrate(self, container: str, target: Agent | str, *options: str) -> subprocess.CompletedProcess[str]:
        """Migrate, for machines."""
        return self.migrator("migrate", container, _address(target), "--json", *options)

    def migrating(self, container: str, target: Agent | str, *options: str) -> AbstractContextManager[Iterator[Event]]:
        """The events of a migration as they come; the command line is killed at the end if it still runs."""
        return self.telling("migrate", container, _address(target), *options)

    @contextmanager
    def telling(self, *words: str) -> Iterator[Iterator[Event]]:
        """The events of any command that tells some, likewise."""
        process = self.host.popen([*MIGRATOR, *words, "--json"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            with process.stdout as lines:
                yield (json.loads(line) for line in lines)
        finally:
            process.kill()
            process.wait(SECONDS)

    def end_of(self, migration: str) -> Event:
        """The last event of a migration that is under way, when it comes."""
        return events(self.migrator("status", migration, "--watch", "--json"))[-1]

    def known(self, migration: str) -> dict[str, Any]:
        """What `migrator status` says of a migration."""
        done = self.migrator("status", migration, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found


def _address(target: Agent | str) -> str:
    return target if isinstance(target, str) else target.address


def run_migrator(host: Host, *words: str) -> subprocess.CompletedProcess[str]:
    """The command line on a host, whether an agent runs there or not."""
    return host.run([*MIGRATOR, *words], check=False, timeout=SECONDS)


def agents_on(*hosts: Host) -> list[Agent]:
    """Agents that answer."""
    tls.install(hosts)
    agents = [Agent(host) for host in hosts]
    for agent in agents:
        agent.start()
    return agents


def bind(destination: str, source: str, *options: str) -> dict[str, Any]:
    """A bind mount of a config."""
    return {"destination": destination, "type": "bind", "source": source, "options": ["bind", *options]}


def runtime_program(name: str) -> str:
    """runc, or a crun that was built with CRIU."""
    if name == "runc":
        return name
    script = Path(__file__).resolve().parents[2] / "scripts/crun"
    return subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True, timeout=200).stdout.strip()


def use_runtime(program: str, *agents: Agent) -> None:
    """Have agents use a runtime, if it is not the one that they use by themselves."""
    for agent in agents if program != "runc" else ():
        agent.stop()
        agent.options = ("--runtime", program)
        agent.start()


def events(done: subprocess.CompletedProcess[str]) -> list[Event]:
    """What a command with --json said."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def until(stream: Iterable[Event], **expected: Any) -> Event:
    """The first event with these fields."""
    for event in stream:
        if all(event.get(key) == value for key, value in expected.items()):
            return event
    raise AssertionError(f"no event with {expected}")


def wrapper(host: Host, name: str, command: str, script: str) -> str:
    """A stand-in for a program, below the host's own directory: runs SCRIPT when its arguments have COMMAND first.

    The script may go on to the real program, with `exec "$real" "$@"`.
    """
    place = Host.data / "wrappers" / name
    path = host.path_of(place)
    path.parent.mkdir(exist_ok=True)
    text = f"""#!/bin/sh
real=$(PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin command -v {name})
case " $* " in *" --help "*) exec "$real" "$@";; esac
for word; do
    case $word in
    {command}) {script};;
    esac
done
exec "$real" "$@"
"""
    path.write_text(text)
    path.chmod(0o755)
    return str(place)
