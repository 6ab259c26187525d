"""What all that comes to a host takes together."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from benchmarks.lab import bundle
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from migrator.cli import app
from tests.migrator.agents import STATE, agents_on, until
from tests.migrator.test_drain import network

MIB = 1 << 20


def test_two_containers_keep_to_one_budget_which_can_be_lifted(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    b.stop()
    b.options = ("--bandwidth", "1")  # a byte a second: one job of the first that comes
    b.start()
    boxes = [bundle.redis(a.host, name, data_mib=32, network=network(name, i)) for i, name in enumerate(("one", "two"))]
    for box in boxes:
        box.start()
        box.wait_port(bundle.PORT)
    with CounterClient(lab.host("c"), boxes[1].network.address, bundle.PORT) as client:
        client.wait_replies(50)
        with a.migrating("one", b) as first, a.migrating("two", b) as second:
            migrations = [until(stream, event="opened")["migration"] for stream in (first, second)]
            client.wait_replies(50)
            for migration in migrations:
                assert b.known(migration)["missing_bytes"] > 28 * MIB
            assert b.host.path_of(STATE / "share").exists()
            done = b.migrator("bandwidth", "0")
            assert done.returncode == 0, done.stderr
            assert "all they can" in done.stdout
            for stream in (first, second):
                assert until(stream, event="result")["result"]["outcome"] == "moved"
        assert client.stop().unbroken
    limited = b.migrator("bandwidth", "50M")
    assert "50.0 MiB/s together" in limited.stdout, limited.stdout + limited.stderr


@pytest.mark.parametrize("words", [["bandwidth", "fast"], ["agent", "--bandwidth", "fast"]])
def test_a_rate_that_is_none(words: list[str]) -> None:
    assert CliRunner().invoke(app, words).exit_code == 2
