"""Memory that follows, on real hosts: it all comes; it is lost; and the source goes on where nothing was decided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.lab import bundle, redis
from benchmarks.lab.container import Container
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from migrator.core.errors import CheckFailed, NotReady, RuntimeFailed, Stranded
from migrator.core.memory import PIPE_BYTES
from tests.migrator.agents import Agent, Event, agents_on, events, until, wrapper

MEMORY_MIB = 64


@pytest.fixture(autouse=True, scope="module")
def pipes() -> None:
    """What preflight would ask the operator for; it is the whole machine's, and stays."""
    limit = Path("/proc/sys/fs/pipe-max-size")
    if int(limit.read_text()) < PIPE_BYTES:
        limit.write_text(str(PIPE_BYTES))


@dataclass
class Scene:
    """Two agents, and a redis on the first that holds some memory."""

    a: Agent
    b: Agent
    container: Container
    client: CounterClient


@contextmanager
def staged(lab: Lab) -> Iterator[Scene]:
    """Set up on new hosts of a lab."""
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(a.host, "redis", (*bundle.REDIS, "--enable-debug-command", "yes"), data_mib=1)
    container.start()
    container.wait_port(bundle.PORT)
    redis.command(a.host, container.network.address, "DEBUG", "POPULATE", str(MEMORY_MIB), "key", str(bundle.MIB))
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(20)
        yield Scene(a, b, container, client)


@pytest.fixture(scope="module")
def scene(shared_lab: Lab) -> Iterator[Scene]:
    """For the tests that leave it as it was, and then the one that moves it."""
    with staged(shared_lab) as scene:
        yield scene


def criu_of(host: Host, words: str) -> list[int]:
    """CRIU's processes on a host that were started with WORDS."""
    return [int(pid) for pid in host.run(["pgrep", "-f", words], check=False).stdout.split()]


def test_pre_copy_is_refused_by_name_where_the_kernel_does_not_track(scene: Scene) -> None:
    tracks = scene.a.host.run(["criu", "check", "--feature", "mem_dirty_track"], check=False).returncode == 0
    survey = events(scene.a.migrator("check", "redis", scene.b.address, "--json"))[0]
    found = {row["check"]: row["found"] for row in survey["checks"]}
    assert found["memory: post-copy"] == "possible"
    assert (found["memory: pre-copy"] == "possible") is tracks
    if not tracks:
        done = scene.a.migrator("migrate", "redis", scene.b.address, "--memory", "pre-copy")
        assert done.returncode == NotReady.status
        assert "MEM_SOFT_DIRTY" in done.stderr
        looked = scene.a.migrator("migrate", "redis", scene.b.address, "--memory", "pre-copy", "--dry-run")
        assert looked.returncode == CheckFailed.status
        assert "MEM_SOFT_DIRTY" in looked.stderr
    assert scene.client.wait_replies(20).unbroken


def test_the_source_goes_on_when_restoring_fails(scene: Scene) -> None:
    scene.b.stop()
    lose = 'find /run/migrator -name \'core-*.img\' -delete; exec "$real" "$@"'
    scene.b.options = ("--runtime", wrapper(scene.b.host, "runc", "restore", lose))
    scene.b.start()
    done = scene.a.migrate("redis", scene.b, "--memory", "post-copy")
    scene.b.stop()
    scene.b.options = ()
    scene.b.start()
    assert done.returncode == RuntimeFailed.status
    report = scene.client.wait_replies(50)
    assert report.unbroken
    assert scene.container.status == "running"
    assert remains(scene.b.host) == []
    assert criu_of(scene.a.host, "criu swrk") == []


def limit(host: Host, rate: str) -> None:
    """What a host sends."""
    host.run(
        ["tc", "qdisc", "replace", "dev", "uplink", "root", "tbf", "rate", rate, "burst", "256k", "latency", "50ms"]
    )


def bytes_of(told: Sequence[Event], phase: str) -> list[tuple[int, int]]:
    """How far it was told to be, in bytes present and in all."""
    progress = [event for event in told if event["event"] == "progress" and event["phase"] == phase]
    assert any(event["rate"] > 0 and event["eta"] is not None for event in progress)
    return [(event["bytes_present"], event["bytes_total"]) for event in progress]


def test_memory_follows_and_the_source_goes_when_all_of_it_has_come(scene: Scene) -> None:
    limits = {"freeze": "200mbit", "hydrate": "10gbit"}
    limit(scene.a.host, "40mbit")
    told: list[Event] = []
    with scene.a.migrating("redis", scene.b, "--memory", "post-copy", "--no-verify", "--compress") as events:
        for event in events:
            told.append(event)
            if event["event"] == "phase" and event["state"] == "begin" and event["phase"] in limits:
                limit(scene.a.host, limits[event["phase"]])
    result = told[-1].get("result")
    assert result is not None, str(told[-1]) + scene.a.log() + scene.b.log()
    assert result["memory"] == "post-copy"
    assert result["image_bytes"] < MEMORY_MIB * bundle.MIB // 4, "the pages were not among the images"
    commit = result["timeline"]["phases"][4]
    assert "pages" in [step["name"] for step in commit["steps"]]

    fetched, came = bytes_of(told, "prepare"), bytes_of(told, "commit")
    assert any(0 < present < total for present, total in fetched), fetched
    assert fetched == sorted(fetched)
    assert came == sorted(came)
    assert len(set(came)) >= 3, came
    assert came[-1][0] == came[-1][1] == commit["bytes"]
    assert 0 <= commit["bytes"] - MEMORY_MIB * bundle.MIB < 32 * bundle.MIB, "what it was filled with, and its own"

    assert remains(scene.a.host) == []
    assert scene.container.state() == {}
    assert scene.b.host.run(["sh", "-c", "ls -d /run/migrator/restore-* 2>/dev/null; true"]).stdout == ""
    assert criu_of(scene.b.host, "criu lazy-pages") == []
    report = scene.client.wait_replies(50)
    assert report.unbroken
    digests = {redis.command(scene.b.host, scene.container.network.address, "STRLEN", f"key:{n}") for n in range(8)}
    assert digests == {str(bundle.MIB)}


def test_a_container_that_loses_its_pages_is_killed_and_never_runs_on_zeros(lab: Lab) -> None:
    """The daemon that answers faults is killed: nobody else can tell a page that was lost from one that is empty."""
    with staged(lab) as scene:
        with scene.a.migrating("redis", scene.b, "--memory", "post-copy", "--no-verify") as told:
            until(told, event="opened")
            for pid in criu_of(scene.b.host, "^criu lazy-pages"):
                scene.b.host.run(["kill", "-9", str(pid)])
            error = until(told, event="error")
        assert error["status"] == Stranded.status
        assert "before all pages" in error["error"]
        assert scene.container.at(scene.b.host).status == "stopped"
        assert scene.container.status == "paused", "the source's copy is as it was"
        report = scene.client.report
        assert all("after" not in text for text in report.errors), "no reply was wrong"
