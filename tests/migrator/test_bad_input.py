"""Whatever a user gets wrong, or a host lacks: one clear line, a status of its own, nothing touched, nothing left."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from benchmarks.lab import bundle, tls
from benchmarks.lab.container import Container
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import Agent, run_migrator, wrapper

SLEEP = ["/bin/sleep", "1000000"]
DEPENDENT = "/var/lib/voyager/bundles"


@dataclass
class Scene:
    """A host with an agent and containers, and other hosts with agents that each lack something."""

    a: Agent
    b: Agent
    box: Container
    others: dict[str, Agent]

    def variant(self, name: str, change: Callable[[dict[str, Any]], object], *, start: bool = True) -> None:
        """A container on the root of `box` with a config of its own."""
        host, place = self.a.host, Host.data / "bundles" / name
        if host.path_of(place).exists():
            return
        host.run(["mkdir", "-p", place])
        config = json.loads(host.path_of(self.box.bundle / "config.json").read_text())
        config["root"]["path"] = str(self.box.rootfs)
        change(config)
        host.path_of(place / "config.json").write_text(json.dumps(config))
        if start:
            Container(host, name, place, self.box.network).start()


@pytest.fixture(scope="module")
def scene(shared_lab: Lab) -> Scene:
    hosts = {name: shared_lab.host(name) for name in ("a", "b", *PECULIAR)}
    tls.install(hosts.values())
    a, b = Agent(hosts["a"]), Agent(hosts["b"])
    for agent in (a, b):
        agent.start()
    box = bundle.make(a.host, "box", SLEEP, data_mib=0)
    box.start()
    return Scene(a, b, box, {name: Agent(hosts[name]) for name in PECULIAR})


def _without_criu(agent: Agent) -> None:
    """A directory of all programs but criu is its PATH."""
    place = Host.data / "bin"
    agent.host.run(["mkdir", "-p", place])
    agent.host.run(
        ["sh", "-c", f"for d in /usr/sbin /usr/bin /sbin /bin; do ln -sf $d/* {place}/; done; rm -f {place}/criu"]
    )
    agent.environment = {"PATH": str(place)}


def _criu_fails(agent: Agent) -> None:
    place = wrapper(agent.host, "criu", "check", "echo 'Error (criu/cr-check.c:1): no vDSO here' >&2; exit 1")
    agent.environment = {"PATH": place.rpartition("/")[0] + ":/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"}


def _without_runtime(agent: Agent) -> None:
    agent.options = ("--runtime", "/nowhere/runc")


def _without_voyfs(agent: Agent) -> None:
    agent.options = ("--voyfs", "/nowhere/voyfs")


def _small_disk(agent: Agent) -> None:
    place = Host.data / "small"
    agent.host.run(["mkdir", place])
    agent.host.run(["mount", "-t", "tmpfs", "-o", "size=16m", "small", place])
    agent.state = place


def _stranger(agent: Agent) -> None:
    """Its certificate is of another CA than the others'."""
    agent.host.run(["rm", "-r", tls.DIRECTORY])
    tls.install([agent.host])


def _without_bridge(agent: Agent) -> None:
    agent.host.ip(
        "link set uplink nomaster",
        f"addr add {agent.host.address}/24 dev uplink",
        "link del br0",
    )


PECULIAR: dict[str, Callable[[Agent], None]] = {
    "nocriu": _without_criu,
    "badcriu": _criu_fails,
    "noruntime": _without_runtime,
    "novoyfs": _without_voyfs,
    "smalldisk": _small_disk,
    "stranger": _stranger,
    "nobridge": _without_bridge,
}


def check(scene: Scene, words: list[str], status: int, *says: str) -> None:
    """The command fails as it should, and changed nothing."""
    before = [remains(scene.a.host), remains(scene.b.host)]
    done = scene.a.migrator(*words)
    assert done.returncode == status, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("migrator: ")
    for each in says:
        assert each in lines[0]
    assert scene.box.status == "running"
    assert [remains(scene.a.host), remains(scene.b.host)] == before


def test_unknown_container(scene: Scene) -> None:
    check(scene, ["migrate", "nobody", scene.b.address], 11, "no container 'nobody'", "runc list")
    check(scene, ["migrate", "../box", scene.b.address], 11, "no container '../box'")


def test_container_that_does_not_run(scene: Scene) -> None:
    scene.variant("done", lambda config: config["process"].update(args=["/bin/true"]))
    host = scene.a.host
    host.run(["sh", "-c", "until runc state done | grep -q stopped; do :; done"])
    check(scene, ["migrate", "done", scene.b.address], 12, "'done' is stopped", "start it")
    scene.variant("ice", lambda config: None)
    host.run(["runc", "pause", "ice"])
    check(scene, ["migrate", "ice", scene.b.address], 12, "'ice' is paused", "runc resume ice")
    host.run(["runc", "resume", "ice"])


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (
            "volume",
            lambda config: config["mounts"].append(
                {"destination": "/srv/hosts", "type": "bind", "source": "/etc/hosts", "options": ["bind"]}
            ),
            ["bind mount at /srv/hosts", "/etc/hosts", "--volume /srv/hosts=lazy|remount|skip"],
        ),
        (
            "hosted",
            lambda config: config["linux"].update(
                namespaces=[each for each in config["linux"]["namespaces"] if each["type"] != "network"]
            ),
            ["uses the host's network"],
        ),
    ],
)
def test_container_that_cannot_be_moved(
    scene: Scene, name: str, change: Callable[[dict[str, Any]], object], says: list[str]
) -> None:
    scene.variant(name, change)
    check(scene, ["migrate", name, scene.b.address], 13, *says)


def test_a_hook_that_only_the_source_has(scene: Scene) -> None:
    scene.variant("hooked", lambda config: config.update(hooks={"poststop": [{"path": "/var/lib/voyager/hook"}]}))
    check(scene, ["migrate", "hooked", scene.b.address], 16, "needs /var/lib/voyager/hook of its host")


def test_container_with_a_terminal(scene: Scene) -> None:
    scene.variant("typist", lambda config: config["process"].update(terminal=True), start=False)
    script = f"""
        import pty, subprocess, sys
        pty.spawn(["runc", "run", "--bundle", "{DEPENDENT}/typist", "typist"])
        """
    process = scene.a.host.popen(["python3", "-c", "\n".join(line.strip() for line in script.splitlines())])
    try:
        scene.a.host.run(["sh", "-c", "until runc state typist 2>/dev/null | grep -q running; do :; done"])
        check(scene, ["migrate", "typist", scene.b.address], 13, "has a terminal")
    finally:
        scene.a.host.run(["runc", "delete", "-f", "typist"])
        process.wait(30)


def test_target_that_is_not_there(scene: Scene) -> None:
    check(scene, ["migrate", "box", f"{scene.b.host.address}:1"], 14, f"{scene.b.host.address}:1", "agent")


def test_target_that_is_no_address(scene: Scene) -> None:
    done = scene.a.migrator("migrate", "box", "b:port")
    assert done.returncode == 2
    assert "is no HOST[:PORT]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "status", "says"),
    [
        ("nocriu", 16, ["the target has no criu"]),
        ("badcriu", 16, ["the target fails 'criu check'", "no vDSO here"]),
        ("noruntime", 16, ["the target has no /nowhere/runc"]),
        ("novoyfs", 16, ["the target cannot run voyfs", "/nowhere/voyfs"]),
        ("smalldisk", 18, ["the target has", "left for", "small"]),
        ("stranger", 15, ["do not trust each other"]),
        ("nobridge", 16, ["the target has no bridge called br0"]),
    ],
)
def test_target_that_lacks_something(scene: Scene, name: str, status: int, says: list[str]) -> None:
    agent = scene.others[name]
    PECULIAR[name](agent)
    agent.start()
    check(scene, ["migrate", "box", agent.address], status, *says)
    agent.stop()


def test_names_that_are_taken_on_the_target(scene: Scene) -> None:
    target, namespace = scene.b.host, scene.box.network.namespace
    target.run(["ip", "netns", "add", namespace])
    check(scene, ["migrate", "box", scene.b.address], 17, f"/run/netns/{namespace}")
    target.run(["ip", "netns", "del", namespace])
    target.ip(f"link add {scene.box.network.port} type bridge")
    check(scene, ["migrate", "box", scene.b.address], 17, scene.box.network.port)
    target.ip(f"link del {scene.box.network.port}", f"addr add {scene.box.network.address}/24 dev br0")
    check(scene, ["migrate", "box", scene.b.address], 17, scene.box.network.address)
    target.ip(f"addr del {scene.box.network.address}/24 dev br0")
    place = scene.b.state / "containers/box"
    target.run(["mkdir", "-p", place])
    check(scene, ["migrate", "box", scene.b.address], 17, str(place))
    target.run(["rmdir", place])
    check(scene, ["migrate", "box", scene.a.address], 17, "already has a container called box")


def test_no_agent(scene: Scene, shared_lab: Lab) -> None:
    host = shared_lab.host("empty")
    for words in (["migrate", "box", "b"], ["status"], ["list"]):
        done = run_migrator(host, *words)
        assert done.returncode == 10
        assert "no agent answers" in done.stderr
        assert done.stderr.count("\n") == 1


def test_unknown_migration(scene: Scene) -> None:
    check(scene, ["status", "nothing"], 19, "no migration nothing")
    check(scene, ["status", "../../etc/passwd", "--json"], 19)
    check(scene, ["status", "nothing", "--watch"], 19, "not under way")
    check(scene, ["status", "--watch"], 19, "under way")
    check(scene, ["timeline", "nothing"], 19, "no migration")


@pytest.mark.parametrize(
    ("options", "status", "says"),
    [
        (["--listen", "0.0.0.0:7"], 26, "not loopback"),
        (["--listen", "127.0.0.1:7", "--cert", "/x"], 26, "needs all of"),
        (["--listen", "127.0.0.1:7", "--cert", "/x", "--key", "/x", "--ca", "/x"], 26, "cannot read /x"),
        (["--listen", "somewhere:port"], 30, "'somewhere:port' is no HOST[:PORT]"),
        (["--listen", "foo:bar:baz"], 30, "'foo:bar:baz' is no HOST[:PORT]"),
        (["--listen", "127.0.0.1:7"], 30, "another agent answers"),
    ],
)
def test_agent_that_cannot_start(scene: Scene, options: list[str], status: int, says: str) -> None:
    done = scene.a.migrator("agent", "--state", "/run/other", *options)
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_json_tells_errors_too(scene: Scene) -> None:
    done = scene.a.migrate("nobody", scene.b)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["status"], last["kind"]) == (11, 11, "ContainerUnknown")


def test_help_has_every_status(scene: Scene) -> None:
    done = scene.a.migrator("--help")
    for status in range(10, 31):
        assert f"{status} " in done.stdout


def test_afterwards_it_still_moves(scene: Scene) -> None:
    done = scene.a.migrate("box", scene.b, "--no-verify")
    assert done.returncode == 0, done.stderr
