"""Two containers that talk to each other move together, on real hosts; or both stay."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from benchmarks.lab import bundle, redis
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from migrator.cli import app
from migrator.core.errors import GroupGivenUp, RuntimeFailed
from migrator.core.phases import Hold, Phase
from tests.migrator.agents import MIGRATOR, Agent, agents_on, events, until, wrapper
from tests.migrator.test_drain import network

# Counts in the other one's redis, over one connection.
TALK = "while :; do echo INCR talk; sleep 0.02; done | redis-cli -h {address} >/dev/null"


@dataclass
class Scene:
    """Two agents, a redis that an outside client counts in, and a container that counts in it too."""

    a: Agent
    b: Agent
    db: Container
    talker: Container
    watcher: Host
    client: CounterClient

    @property
    def line(self) -> str:
        """The talker's connection, as redis names it."""
        clients = redis.command(self.watcher, self.db.network.address, "CLIENT", "LIST").splitlines()
        words = [dict(word.partition("=")[::2] for word in line.split()) for line in clients]
        (found,) = [each["addr"] for each in words if each["addr"].startswith(self.talker.network.address + ":")]
        return found

    def talks(self) -> None:
        """The talker goes on counting."""

        def count() -> int:
            return int(redis.command(self.watcher, self.db.network.address, "GET", "talk") or 0)

        before = count()
        while count() <= before + 3:
            pass


@pytest.fixture
def scene(lab: Lab) -> Iterator[Scene]:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    db = bundle.redis(a.host, "db", data_mib=16, network=network("db", 0))
    db.start()
    db.wait_port(bundle.PORT)
    words = ["/bin/sh", "-c", TALK.format(address=db.network.address)]
    talker = bundle.make(a.host, "talker", words, data_mib=4, network=network("talker", 1))
    talker.start()
    watcher = lab.host("c")
    with CounterClient(watcher, db.network.address, bundle.PORT) as client:
        made = Scene(a, b, db, talker, watcher, client)
        client.wait_replies(50)
        made.talks()
        yield made


def test_both_move_and_neither_notices(scene: Scene) -> None:
    line = scene.line
    done = scene.a.migrator("migrate", "--group", "db,talker", scene.b.address, "--json")
    assert done.returncode == 0, done.stderr + scene.a.log() + scene.b.log()
    told = events(done)
    assert [(end["container"], end["outcome"]) for end in sorted(told[-1]["containers"], key=str)] == [
        ("db", "moved"),
        ("talker", "moved"),
    ]
    for container in (scene.db, scene.talker):
        assert container.at(scene.b.host).status == "running"
        assert container.state() == {}
    assert remains(scene.a.host) == []
    names = told[0]["migrations"]
    assert [scene.a.known(name)["phase"] for name in names] == [Phase.DONE] * 2
    assert {scene.a.known(name)["group"] for name in names} == {names[0].rpartition("-")[0]}
    scene.talks()
    assert scene.line == line, "over the same connection"
    scene.client.wait_replies(50)
    report = scene.client.stop()
    assert report.unbroken, report


def test_one_that_cannot_be_restored_keeps_both_where_they_are(scene: Scene) -> None:
    line = scene.line
    scene.b.stop()
    script = 'case " $* " in *" talker "*) echo no luck >&2; exit 1;; esac; exec "$real" "$@"'
    scene.b.options = ("--runtime", wrapper(scene.b.host, "runc", "restore", script))
    scene.b.start()
    done = scene.a.migrator("migrate", "--group", "db,talker", scene.b.address, "--json")
    assert done.returncode == RuntimeFailed.status, done.stdout + done.stderr
    assert "talker" in done.stderr
    ends = {end["container"]: end for end in events(done)[-1]["containers"]}
    assert {name: end["kind"] for name, end in ends.items()} == {
        "db": GroupGivenUp.__name__,
        "talker": RuntimeFailed.__name__,
    }
    for container in (scene.db, scene.talker):
        assert container.status == "running"
    assert remains(scene.b.host) == []
    for end in ends.values():
        assert scene.a.known(end["migration"])["phase"] == Phase.ROLLED_BACK
        assert scene.b.known(end["migration"])["phase"] == Hold.DISCARDED
    scene.talks()
    assert scene.line == line
    scene.client.wait_replies(50)
    report = scene.client.stop()
    assert report.unbroken, report

    scene.b.stop()
    scene.b.options = ()
    scene.b.start()
    again = scene.a.migrator("migrate", "--group", "db,talker", scene.b.address)
    assert again.returncode == 0, again.stderr + scene.b.log()
    assert "to move together: db, talker" in again.stdout
    scene.talks()
    assert scene.line == line


def test_a_source_that_is_killed_after_the_decision_moves_both(scene: Scene) -> None:
    words = [*MIGRATOR, "migrate", "--group", "db,talker", scene.b.address, "--json"]
    process = scene.a.host.popen(words, stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout as lines:
        stream = (json.loads(line) for line in lines)
        names = until(stream, event="group")["migrations"]
        until(stream, event="opened")
        scene.a.kill()
    process.kill()
    process.wait()
    scene.a.start()
    for name in names:
        assert scene.a.end_of(name)["result"]["outcome"] == "moved", scene.a.log()
    for container in (scene.db, scene.talker):
        assert container.at(scene.b.host).status == "running"
    assert remains(scene.a.host) == []
    scene.talks()
    scene.client.wait_replies(50)
    report = scene.client.stop()
    assert report.unbroken, report


@pytest.mark.parametrize("words", [["a", "b", "--group", "c,d"], ["b"], ["a", "b", "c"], ["b:x", "--group", "c,d"]])
def test_what_is_mistyped_is_wrong_usage(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["migrate", *words]).exit_code == 2
