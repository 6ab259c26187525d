"""Networks other than a veth pair that the agent moves itself, and the operator's hooks, on real hosts."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from benchmarks.lab import bundle, redis
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import PREFIX, Lab
from benchmarks.lab.leaks import remains
from migrator.core import limits
from migrator.core.errors import HookFailed, Unsupported
from migrator.core.hook import Stage
from migrator.hooks import ProgramHooks
from tests.migrator.agents import Agent, agents_on, events

FACTS = {"side": "source", "container": "box"}


def write_hook(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_a_hook_gets_the_facts(tmp_path: Path) -> None:
    write_hook(tmp_path / "before-freeze", f"cat >{tmp_path}/heard")
    hooks = ProgramHooks(tmp_path)
    hooks.run(Stage.BEFORE_FREEZE, FACTS)
    assert json.loads((tmp_path / "heard").read_text()) == {"stage": "before-freeze", **FACTS}


def test_no_hook_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "on-abort").write_text("not executable")
    ProgramHooks(None).run(Stage.ON_ABORT, FACTS)
    ProgramHooks(tmp_path).run(Stage.ON_ABORT, FACTS)
    ProgramHooks(tmp_path).run(Stage.AFTER_RESTORE, FACTS)


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo no address left >&2; exit 3", "failed with status 3: no address left"),
        ("exec sleep 60", "did not end within 0.2 s"),
    ],
)
def test_a_hook_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, says: str) -> None:
    monkeypatch.setattr(limits, "HOOK_SECONDS", 0.2 if "sleep" in script else 10.0)
    write_hook(tmp_path / "after-restore", script)
    with pytest.raises(HookFailed, match=says) as caught:
        ProgramHooks(tmp_path).run(Stage.AFTER_RESTORE, FACTS)
    assert str(tmp_path / "after-restore") in caught.value.message


@dataclass
class Pair:
    """Two agents with directories for hooks."""

    a: Agent
    b: Agent
    lab: Lab

    def hook(self, agent: Agent, stage: str, script: str) -> None:
        write_hook(agent.host.path_of(agent.host.data / "hooks" / stage), script)

    def forget_hooks(self) -> None:
        for agent in (self.a, self.b):
            for path in agent.host.path_of(agent.host.data / "hooks").iterdir():
                path.unlink()


@pytest.fixture(autouse=True)
def no_hooks(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test's hooks are its own."""
    yield
    if "pair" in request.fixturenames:
        request.getfixturevalue("pair").forget_hooks()


@pytest.fixture(scope="module")
def pair(shared_lab: Lab) -> Iterator[Pair]:
    agents = agents_on(shared_lab.host("a"), shared_lab.host("b"))
    for agent in agents:
        agent.stop()
        agent.host.path_of(agent.host.data / "hooks").mkdir()
        agent.options = ("--hooks", str(agent.host.data / "hooks"))
        agent.start()
    yield Pair(*agents, shared_lab)
    for agent in agents:
        agent.stop()


def migrated(pair: Pair, container: Container, *options: str) -> dict[str, Any]:
    """The last event of a migration from a to b."""
    return events(pair.a.migrate(container.name, pair.b, *options))[-1]


def test_hooks_move_a_network_and_its_connection(pair: Pair) -> None:
    """What the built-in provider does, done by programs of the operator: cut here, an interface there, let go."""
    container = bundle.redis(pair.a.host, "hooked", data_mib=1)
    network = container.network
    log = "cat >>{data}/told; echo >>{data}/told"
    for agent in (pair.a, pair.b):
        for stage in Stage:
            pair.hook(agent, stage, log.format(data=agent.host.data))
    pair.hook(pair.a, "before-freeze", f"{log.format(data=pair.a.host.data)}; ip link set {network.port} down")
    pair.hook(pair.a, "on-abort", f"{log.format(data=pair.a.host.data)}; ip link set {network.port} up")
    make = f"""
        {log.format(data=pair.b.host.data)}
        ip link add {network.port} index 20000 master br0 type veth peer name eth0 netns {network.namespace}
        ip -n {network.namespace} link set eth0 address {network.mac} up
        ip -n {network.namespace} addr add {network.address}/{PREFIX} dev eth0
        ip -n {network.namespace} route add default via {network.gateway} dev eth0 onlink
    """
    pair.hook(pair.b, "before-freeze", make)
    away = f"{log.format(data=pair.b.host.data)}; ip link del {network.port} 2>/dev/null; true"
    pair.hook(pair.b, "on-abort", away)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(pair.lab.host("c"), network.address, bundle.PORT) as client:
        client.wait_replies(20)

        # A failure while the copy is held: back to the source, whose network the hooks give back.
        pair.hook(pair.b, "after-restore", f"{log.format(data=pair.b.host.data)}; echo not today >&2; exit 1")
        failed = migrated(pair, container, "--network", "hooks")
        assert (failed["kind"], failed["status"]) == ("HookFailed", HookFailed.status), failed
        assert "not today" in failed["error"]
        assert remains(pair.b.host) == []
        client.wait_replies(20)

        told = f"{log.format(data=pair.b.host.data)}; nsenter --net={network.path} ping -c1 -W1 {network.gateway} >&2 &"
        pair.hook(pair.b, "after-restore", log.format(data=pair.b.host.data))
        pair.hook(pair.b, "after-commit", f"ip link set {network.port} up; {told}")
        last = migrated(pair, container, "--network", "hooks")
        assert last["event"] == "result", last
        client.wait_replies(20)
        report = client.stop()
    assert report.unbroken, report
    assert report.last == report.count
    stages = {}
    for agent in (pair.a, pair.b):
        lines = agent.host.path_of(agent.host.data / "told").read_text().splitlines()
        facts = [json.loads(line) for line in lines if line]
        assert {each["container"] for each in facts} == {"hooked"}
        assert {each["network"] for each in facts} == {"hooks"}
        assert {each["identity"]["namespace"] for each in facts} == {network.path}
        stages[agent.host.name] = [each["stage"] for each in facts]
    assert stages == {
        "a": ["before-freeze", "on-abort", "before-freeze", "after-commit"],
        "b": ["before-freeze", "after-restore", "on-abort", "before-freeze", "after-restore", "after-commit"],
    }
    container.at(pair.b.host).delete()
    network.remove(pair.b.host)
    network.remove(pair.a.host)


def test_without_a_network_connections_are_closed_and_the_rest_goes_on(pair: Pair) -> None:
    container = bundle.redis(pair.a.host, "alone", data_mib=1)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(pair.lab.host("d"), container.network.address, bundle.PORT) as client:
        client.wait_replies(20)
        last = migrated(pair, container, "--network", "none", "--no-verify")
        assert last["event"] == "result", last
        client.stop()
    links = pair.b.host.run(["ip", "-n", container.network.namespace, "-br", "link"]).stdout.splitlines()
    assert [line.split()[0] for line in links] == ["lo"]
    answer = pair.b.host.run(["runc", "exec", "alone", "redis-cli", "GET", "voyager"]).stdout
    assert int(answer) >= 20
    container.at(pair.b.host).delete()
    container.network.remove(pair.a.host)


def test_the_hosts_network_stays_the_hosts(pair: Pair) -> None:
    container = bundle.redis(pair.a.host, "hosted", data_mib=1)

    def share(config: dict[str, Any]) -> None:
        spaces = config["linux"]["namespaces"]
        config["linux"]["namespaces"] = [each for each in spaces if each["type"] != "network"]

    bundle.edit_config(container, share)
    container.start()
    address = pair.a.host.address

    def connect(to: str) -> socket.socket:
        while True:
            try:
                return socket.create_connection((to, bundle.PORT), timeout=30)
            except ConnectionRefusedError:
                continue

    with pair.a.host.call(lambda: connect(address)):  # established, when it is dumped
        assert redis.command(pair.a.host, address, "SET", "where", "here") == "OK"
        refused = migrated(pair, container)
        assert (refused["kind"], refused["status"]) == ("Unsupported", Unsupported.status)
        last = migrated(pair, container, "--network", "host", "--no-verify")
        assert last["event"] == "result", last
    assert redis.command(pair.b.host, pair.b.host.address, "GET", "where") == "here"
    refused = events(pair.b.migrate("hosted", pair.a, "--network", "none"))[-1]
    assert "moves as --network host alone" in refused["error"]
    container.at(pair.b.host).delete()
    container.network.remove(pair.a.host)
