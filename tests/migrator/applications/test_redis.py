"""redis, with its append-only file on a volume, under its client: with each runtime."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.lab import bundle, redis
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import STATE, agents_on, bind, events, runtime_program, use_runtime


@pytest.mark.parametrize("name", ["runc", "crun"])
def test_redis_moves_with_its_file_on_a_volume(lab: Lab, name: str) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    runtime = runtime_program(name)
    use_runtime(runtime, a, b)
    argv = (*bundle.REDIS, "--enable-debug-command", "yes")
    container = replace(bundle.make(a.host, "redis", argv, data_mib=4), runtime=runtime)
    volume = a.host.data / "volume"
    a.host.path_of(volume).mkdir()
    bundle.edit_config(container, lambda config: config["mounts"].append(bind("/srv/redis", str(volume))))
    container.start()
    container.wait_port(bundle.PORT)
    address = container.network.address
    with CounterClient(lab.host("c"), address, bundle.PORT) as client:
        client.wait_replies(100)
        redis.rewrite(a.host, address)
        client.wait_replies(100)
        done = a.migrate("redis", b)
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        assert events(done)[-1]["result"]["outcome"] == "moved"
        client.wait_replies(100)
        assert remains(a.host) == []
        a.host.kill()
        client.wait_replies(100)
        report = client.stop()
    assert report.unbroken, report
    assert report.first == 1
    assert report.last == report.count

    # All that the client was answered is in the file, and the file where the volume is.
    written = b.host.path_of(STATE / "containers/redis/volumes/0/store/data/appendonlydir")
    assert sum(file.stat().st_size for file in written.iterdir()) > report.count
    assert redis.command(b.host, address, "DEBUG", "LOADAOF") == "OK"
    assert int(redis.command(b.host, address, "GET", "voyager")) >= report.last
    redis.rewrite(b.host, address)
    assert container.at(b.host).status == "running"
