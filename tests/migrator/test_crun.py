"""Containers of crun move like those of runc."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.lab import bundle, redis
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import agents_on, events

_SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def crun() -> str:
    """A crun that was built with CRIU."""
    return subprocess.run(
        [_SCRIPTS / "crun"], check=True, stdout=subprocess.PIPE, text=True, timeout=200
    ).stdout.strip()


def test_redis_moves_with_crun_under_its_client(lab: Lab, crun: str) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    for agent in (a, b):
        agent.stop()
        agent.options = ("--runtime", crun)
        agent.start()
    container = replace(bundle.redis(a.host, "redis", data_mib=4), runtime=crun)
    container.start()
    container.wait_port(bundle.PORT)
    address = container.network.address
    with CounterClient(lab.host("c"), address, bundle.PORT) as client:
        client.wait_replies(50)
        done = a.migrate("redis", b)
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        assert events(done)[-1]["result"]["outcome"] == "moved"
        client.wait_replies(50)
        assert remains(a.host) == []
        a.host.kill()
        redis.rewrite(b.host, address)
        report = client.stop()
    assert report.unbroken, report
    assert report.last == report.count
    assert container.at(b.host).status == "running"
