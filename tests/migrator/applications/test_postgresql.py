"""PostgreSQL under pgbench, which counts by itself: every transaction that it was told of is there, once."""

from __future__ import annotations

from benchmarks.lab import postgresql
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import agents_on, events

SECONDS = 120.0


def test_no_transaction_is_lost_or_done_twice(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = postgresql.make(a.host, "db")
    container.start()
    container.wait_port(postgresql.PORT)
    client = postgresql.Client(lab.host("c"), container.network.address)
    client.fill(2)
    with client.bench() as process:
        client.wait_transactions(100)
        connections = client.connections()
        assert len(connections.splitlines()) == 4
        done = a.migrate("db", b, "--memory", "stop-copy")
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        result = events(done)[-1]["result"]
        assert result["outcome"] == "moved"
        # What its processes share counts once: it is neither refused for lack of memory nor moved as if it were large.
        assert 0.5 < result["prediction"]["memory_bytes"] / result["image_bytes"] < 2
        assert result["prediction"]["dirty_rate"] > 0
        assert remains(a.host) == []
        a.host.kill()
        client.wait_transactions(100)
        assert client.connections() == connections
        postgresql.end(process)
        said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, said
    figures = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
    assert figures["number of failed transactions"] == "0 (0.000%)", said
    committed = int(figures["number of transactions actually processed"])
    assert client.ask("select count(*) from pgbench_history") == str(committed)
    sums = [
        client.ask(f"select sum({column}) from {table}")
        for table, column in {
            "pgbench_history": "delta",
            "pgbench_accounts": "abalance",
            "pgbench_tellers": "tbalance",
            "pgbench_branches": "bbalance",
        }.items()
    ]
    assert len(set(sums)) == 1, sums
    # Every page is read from where it lies now, and its checksum found right; and it can be written.
    client.ask("vacuum (full, analyze)")
    assert client.ask("select sum(checksum_failures) from pg_stat_database") == "0"
    client.ask("checkpoint")
