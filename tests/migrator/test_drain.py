"""Emptying a host: order, targets, limits and reports over a stand-in for migrations; then three real containers."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from subprocess import PIPE
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from benchmarks.lab import bundle
from benchmarks.lab.container import Network
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from migrator.cli import app
from migrator.core import limits
from migrator.core.draining import PRIORITY, First, Leaving, by_load, in_order, priority_of
from migrator.core.errors import (
    Busy,
    ContainerNotRunning,
    NoSpace,
    Refused,
    Remaining,
    RuntimeFailed,
    Taken,
    describe,
)
from migrator.core.plan import Container, Options
from migrator.drain import Drain, Wish
from migrator.migrations import Migrations
from migrator.moves import Moves
from migrator.ports import Runtime
from tests.migrator.agents import MIGRATOR, agents_on, events, until
from tests.migrator.world import CONTAINER, FakeClock

SECONDS = 60.0


@dataclass
class Hosts:
    """A host with containers, and what becomes of each when it is moved; stands in for runtime, moves, migrations."""

    statuses: dict[str, str] = field(default_factory=dict)
    priorities: dict[str, object] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)
    failing: Mapping[str, Exception] = field(default_factory=dict)
    refusing: Mapping[tuple[str, str], type[Exception]] = field(default_factory=dict)  # by container and target
    coming: Mapping[str, str] = field(default_factory=dict)
    moving: dict[str, str] = field(default_factory=dict)
    slow: bool = False  # each migration waits until it is let go
    started: list[tuple[str, str]] = field(default_factory=list)
    go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    most: int = 0

    def containers(self) -> list[dict[str, Any]]:
        return [{"id": name, "status": status} for name, status in self.statuses.items()]

    def inspect(self, name: str) -> Container:
        if self.statuses[name] != "running":
            raise ContainerNotRunning(f"container '{name}' is {self.statuses[name]}, not running")
        config = {"annotations": {PRIORITY: self.priorities[name]}} if name in self.priorities else {}
        return replace(CONTAINER, name=name, config=config, memory_bytes=self.memory.get(name, 0))

    def undecided(self) -> list[Any]:
        return [SimpleNamespace(container=name, migration=migration) for name, migration in self.coming.items()]

    def under_way(self) -> dict[str, str]:
        return dict(self.moving)

    def check(self, name: str, target: str, options: Options) -> dict[str, Any]:
        rows: list[dict[str, Any]] = [{"state": "ok"}]
        if (kind := self.refusing.get((name, target))) is not None:
            said = {"problem": f"{target} is no place", "remedy": "make room"}
            rows.append({"state": "fails", "kind": kind.__name__, **said})
        return {"checks": rows}

    def start(self, name: str, target: str, options: Options) -> str:
        if name in self.moving:
            raise Busy(f"{name} is being moved")
        self.started.append((name, target))
        self.moving[name] = f"m-{name}"
        self.most = max(self.most, len(self.moving))
        return self.moving[name]

    def follow(self, migration: str) -> Iterator[Mapping[str, Any]]:
        name = migration.removeprefix("m-")
        yield {"event": "started", "migration": migration, "target": "somewhere"}
        if self.slow:
            assert self.go.acquire(timeout=SECONDS)
        del self.moving[name]
        if error := self.failing.get(name):
            yield {"event": "error", "migration": migration, **describe(error)}
            return
        self.statuses.pop(name, None)
        result = {"timeline": {"downtime_s": 0.5}}
        yield {"event": "result", "migration": migration, "result": result}

    def drain(self, *targets: str, parallel: int = 1, first: First = First.URGENT) -> Iterator[Mapping[str, Any]]:
        wish = Wish(targets or ("b",), Options(), first, parallel)
        return Drain(cast(Migrations, self), cast(Runtime, self), cast(Moves, self), FakeClock(), wish).run()


def report(stream: Iterator[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The last event, by container, in the order in which they ended."""
    *_, last = stream
    assert last["event"] == "drained"
    return {end["container"]: end for end in last["containers"]}


def running(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "running")


def test_everything_that_runs_moves_and_nothing_else() -> None:
    hosts = Hosts({"web": "running", "db": "running", "old": "stopped", "new": "created"})
    ends = report(hosts.drain())
    assert {name: (end["outcome"], end["downtime_s"]) for name, end in ends.items()} == dict.fromkeys(
        ("db", "web"), ("moved", 0.5)
    )
    assert report(hosts.drain()) == {}, "run again there is nothing left"


def test_the_urgent_go_first_and_of_equals_the_smallest() -> None:
    def order(first: First) -> list[str]:
        hosts = Hosts(running("a", "b", "c", "d"), {"c": "10", "d": -1}, {"a": 7, "b": 3, "c": 9, "d": 1})
        return list(report(hosts.drain(first=first)))

    assert order(First.URGENT) == ["c", "b", "a", "d"]
    assert order(First.SMALLEST) == ["d", "b", "a", "c"]


def test_it_goes_on_after_a_failure_and_moves_the_rest_when_it_is_run_again() -> None:
    failing = {"a": RuntimeFailed("criu fell over", remedy="see its log", log=["line"])}
    hosts = Hosts(running("a", "b"), failing=failing)
    ends = report(hosts.drain())
    assert (ends["a"]["outcome"], ends["a"]["error"], ends["a"]["status"]) == ("failed", "criu fell over", 21)
    assert (ends["a"]["remedy"], ends["a"]["migration"]) == ("see its log", "m-a")
    assert ends["b"]["outcome"] == "moved"
    hosts.failing = {}
    assert {name: end["outcome"] for name, end in report(hosts.drain()).items()} == {"a": "moved"}


def test_who_is_refused_everywhere_is_told_why_and_nothing_is_begun() -> None:
    refusing = {("a", "x"): Taken, ("a", "y"): NoSpace, ("b", "x"): Taken}
    hosts = Hosts(running("a", "b"), refusing=refusing)
    ends = report(hosts.drain("x", "y"))
    assert (ends["a"]["outcome"], ends["a"]["migration"]) == ("refused", "")
    assert ends["a"]["error"] == "x: x is no place; y: y is no place"
    assert ends["a"]["remedy"] == "make room"
    assert ends["b"]["outcome"] == "moved"
    assert hosts.started == [("b", "y")]


def test_what_is_under_way_is_joined_and_comes_first() -> None:
    hosts = Hosts(running("a", "z"), moving={"z": "m-z", "gone": "m-gone"})
    ends = report(hosts.drain())
    assert list(ends) == ["gone", "z", "a"]
    assert [end["outcome"] for end in ends.values()] == ["moved"] * 3
    assert [end["joined"] for end in ends.values()] == [True, True, False]
    assert hosts.started == [("a", "b")]


def test_what_somebody_else_begins_meanwhile_is_joined() -> None:
    hosts = Hosts(running("a"))
    stream = hosts.drain()
    next(stream)
    hosts.moving["a"] = "m-a"
    assert report(stream)["a"]["joined"]
    assert hosts.started == []


def test_what_is_coming_or_paused_is_named() -> None:
    hosts = Hosts({"a": "paused", "b": "running"}, coming={"b": "m9"})
    ends = report(hosts.drain())
    assert {name: (end["outcome"], end["kind"]) for name, end in ends.items()} == {
        "a": ("refused", "ContainerNotRunning"),
        "b": ("refused", "Busy"),
    }
    assert "m9" in ends["b"]["remedy"]
    assert hosts.started == []


@pytest.mark.parametrize("parallel", [1, 3])
def test_no_more_move_at_once_than_asked_and_they_spread_over_the_targets(parallel: int) -> None:
    hosts = Hosts(running(*"abcdef"), slow=True)
    stream = hosts.drain("x", "y", "z", parallel=parallel)
    ends = 0
    for event in stream:
        if event["event"] == "started":
            hosts.go.release()
        ends += event["event"] == "container"
    assert ends == 6
    assert hosts.most <= parallel
    if parallel == 1:
        assert {target for _, target in hosts.started} == {"x"}
    else:
        assert sorted(target for _, target in hosts.started[:3]) == ["x", "y", "z"]


def test_who_stops_listening_begins_nothing_more() -> None:
    hosts = Hosts(running("a", "b"), slow=True)
    stream = hosts.drain()
    assert any(event["event"] == "started" for event in stream)
    hosts.go.release()
    assert any(event["event"] == "container" for event in stream)
    cast(Any, stream).close()
    assert hosts.started == [("a", "b")]


def test_an_agent_that_is_being_stopped_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeClock, "wait", lambda *_: True)
    hosts = Hosts(running("a"))
    assert "being stopped" in report(hosts.drain())["a"]["error"]
    assert hosts.started == []


def test_an_unforeseen_failure_is_one_containers_own() -> None:
    hosts = Hosts(running("a", "b"))
    check = hosts.check

    def broken(name: str, target: str, options: Options) -> dict[str, Any]:
        return check(name, target, options) if name == "b" else {}

    hosts.check = broken  # type: ignore[method-assign]
    ends = report(hosts.drain())
    assert [end["outcome"] for end in ends.values()] == ["refused", "moved"]


@pytest.mark.parametrize(
    ("parallel", "targets"),
    [(0, ("b",)), (limits.DRAIN_PARALLEL + 1, ("b",)), (1, ()), (1, tuple(map(str, range(limits.DRAIN_TARGETS + 1))))],
)
def test_limits(parallel: int, targets: tuple[str, ...]) -> None:
    with pytest.raises(Refused):
        Wish(targets, Options(), First.URGENT, parallel)


@pytest.mark.parametrize(
    ("annotations", "priority"),
    [(None, 0), ({}, 0), ({PRIORITY: "7"}, 7), ({PRIORITY: "-3"}, -3), ({PRIORITY: "soon"}, 0), ({PRIORITY: None}, 0)],
)
def test_priority_of_an_annotation(annotations: object, priority: int) -> None:
    assert priority_of({"annotations": annotations}) == priority


LEAVING = st.builds(Leaving, st.text(max_size=3), st.integers(), st.integers(0), st.sampled_from(["", "m"]))


@given(st.lists(LEAVING, unique_by=lambda each: each.name), st.sampled_from(First), st.randoms())
def test_the_order_is_the_same_however_they_are_found(found: list[Leaving], first: First, random: Any) -> None:
    ordered = in_order(found, first)
    random.shuffle(found)
    assert in_order(found, first) == ordered
    assert sorted(ordered, key=lambda each: not each.migration) == ordered
    others = [each for each in ordered if not each.migration]
    for one, other in itertools.pairwise(others):
        assert first is First.URGENT or one.memory_bytes <= other.memory_bytes
        assert first is First.SMALLEST or one.priority >= other.priority


def test_targets_by_load_are_those_of_the_fewest_then_as_named() -> None:
    assert by_load(["z", "y", "x"], {"z": 1}) == ["y", "x", "z"]


def network(name: str, number: int) -> Network:
    return Network(name, address=f"10.77.0.{100 + number}", mac=f"02:77:00:00:00:{0x64 + number:02x}")


def test_a_host_is_emptied_goes_on_after_a_refusal_and_again(lab: Lab) -> None:
    a, b, c = agents_on(lab.host("a"), lab.host("b"), lab.host("c"))
    containers = {}
    for number, name in enumerate(("first", "second", "stuck")):
        box = containers[name] = bundle.loop(a.host, name, network=network(name, number))
        bundle.edit_config(box, lambda config: config.setdefault("annotations", {}).update({PRIORITY: "5"}))
    bundle.edit_config(containers["second"], lambda config: config["annotations"].update({PRIORITY: "9"}))
    bundle.edit_config(containers["stuck"], lambda config: config["mounts"].append(DEVICE))
    for box in containers.values():
        box.start()
    to = f"{b.address},{c.address}"

    told = a.migrator("drain", "--to", to, "--json")
    assert told.returncode == Remaining.status, told.stderr + a.log() + b.log() + c.log()
    assert "stuck" in told.stderr
    drained = events(told)
    assert drained[0]["containers"][0] == "second"
    ends = {end["container"]: end for end in drained[-1]["containers"]}
    assert {name: end["outcome"] for name, end in ends.items()} == {
        "first": "moved",
        "second": "moved",
        "stuck": "refused",
    }, ends
    assert "/odd" in ends["stuck"]["error"]
    assert {ends["first"]["target"], ends["second"]["target"]} == {b.address, c.address}
    where = {b.address: b.host, c.address: c.host}
    for name in ("first", "second"):
        assert containers[name].at(where[ends[name]["target"]]).status == "running"
        assert a.known(ends[name]["migration"])["phase"] == "done"
    assert containers["stuck"].status == "running", "what is refused is not touched"

    again = a.migrator("drain", "--to", to)
    assert again.returncode == Remaining.status
    assert "to move, in this order: stuck" in again.stdout
    assert "refused" in again.stdout
    containers["stuck"].delete()
    containers["stuck"].network.remove(a.host)
    assert remains(a.host) == []
    done = a.migrator("drain", "--to", to)
    assert (done.returncode, done.stdout) == (0, "no container runs on this host\n"), done.stderr


DEVICE = {"destination": "/odd", "type": "bind", "source": "/dev/null", "options": ["bind"]}


def test_a_drain_that_is_killed_leaves_what_moves_to_go_on_and_the_next_one_joins_it(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    boxes = [bundle.redis(a.host, name, data_mib=64, network=network(name, i)) for i, name in enumerate(("one", "two"))]
    for box in boxes:
        box.start()
        box.wait_port(bundle.PORT)
    words = ["drain", "--to", b.address, "--parallel", "1", "--json"]
    process = a.host.popen([*MIGRATOR, *words], stdout=PIPE)
    assert process.stdout is not None
    with process.stdout as lines:
        migration = until((json.loads(line) for line in lines), event="opened")["migration"]
        process.kill()
        process.wait(SECONDS)
    again = a.migrator(*words)
    assert again.returncode == 0, again.stderr + a.log() + b.log()
    ends = {end["container"]: end for end in events(again)[-1]["containers"]}
    moved = next(name for name, end in ends.items() if end["migration"] == migration)
    assert ends[moved]["joined"]
    assert {name: end["outcome"] for name, end in ends.items()} == {"one": "moved", "two": "moved"}
    assert [box.at(b.host).status for box in boxes] == ["running", "running"]
    assert len(events(a.migrator("list", "--json"))[0]["migrations"]) == 2, "none was doubled"


@pytest.mark.parametrize(
    "words", [["--to", ""], ["--to", "b,"], ["--to", "b", "--parallel", "0"], ["--to", "b", "--parallel", "9"], []]
)
def test_what_is_mistyped_is_wrong_usage(words: list[str]) -> None:
    assert CliRunner().invoke(app, ["drain", *words]).exit_code == 2
