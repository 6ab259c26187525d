"""The whole of it on real hosts: redis under its client's hands, from one host to another, with nothing simulated."""

from __future__ import annotations

from benchmarks.lab import bundle, redis
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from migrator.core.phases import Hold, Phase
from tests.migrator.agents import STATE, agents_on, events, until

SIX = ["prepare", "freeze", "dump", "restore", "commit", "hydrate", "detach"]


def test_redis_moves_under_its_client_and_its_source_may_die(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.redis(a.host, "redis", data_mib=32)
    container.start()
    container.wait_port(bundle.PORT)
    address = container.network.address
    with CounterClient(lab.host("c"), address, bundle.PORT) as client:
        client.wait_replies(100)
        done = a.migrate("redis", b)
        assert done.returncode == 0, done.stderr + a.log() + b.log()
        told = events(done)
        result = told[-1]["result"]
        client.wait_replies(100)

        # What is left on the source: the bundle, and nothing that runs, is mounted or is called like it.
        assert remains(a.host) == []
        assert container.host.path_of(container.rootfs / "srv/redis").is_dir()
        assert container.state() == {}
        assert container.at(b.host).status == "running"

        migration = told[0]["migration"]
        assert a.known(migration)["phase"] == Phase.DONE
        assert a.known(migration)["result"] == result
        assert b.known(migration)["phase"] == Hold.DETACHED
        listed = events(b.migrator("list", "--json"))[0]
        assert [each["id"] for each in listed["containers"]] == ["redis"]
        assert [each["migration"] for each in listed["migrations"]] == [migration]

        for agent in (a, b):
            lines = agent.log().splitlines()
            assert [line for line in lines if f"migration={migration}" not in line] == []
            assert lines
        assert "<svg" in a.migrator("timeline", migration, "--svg", "-").stdout
        assert events(a.migrator("timeline", migration, "--json"))[0] == result["timeline"]
        assert "client's gap" in a.migrator("timeline", migration).stdout

        a.host.kill()
        client.wait_replies(100)
        redis.rewrite(b.host, address)
        report = client.wait_replies(100)
        assert redis.command(b.host, address, "GET", "voyager") >= str(report.count)
        report = client.stop()
    assert report.unbroken, report
    assert report.first == 1
    assert report.last == report.count

    assert [phase["phase"] for phase in result["timeline"]["phases"]] == SIX
    timeline = result["timeline"]
    assert 0 < timeline["downtime_s"] == timeline["opened_s"] - timeline["paused_s"]
    restore = timeline["phases"][SIX.index("restore")]
    assert timeline["gap_s"] >= restore["start_s"] + restore["seconds"] - timeline["paused_s"], "it ran restored"
    assert result["image_bytes"] > 1 << 20
    hydrate = timeline["phases"][SIX.index("hydrate")]
    assert hydrate["bytes"] > 32 << 20
    assert hydrate["start_s"] > timeline["opened_s"], "it ran before its disk was there"


def test_a_container_goes_on_when_the_command_line_is_killed_and_the_source_agent_restarts(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.redis(a.host, "redis", data_mib=64)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(50)
        with a.migrating("redis", b) as stream:
            migration = until(stream, event="opened")["migration"]
            a.kill()
        a.start()
        assert a.end_of(migration)["result"]["outcome"] == "moved", a.log()
        assert a.known(migration)["phase"] == Phase.DONE
        assert b.known(migration)["phase"] == Hold.DETACHED
        assert remains(a.host) == []
        client.wait_replies(50)
        report = client.stop()
    assert report.unbroken, report


def test_the_source_host_restarts_while_its_disk_is_needed_and_a_daemon_dies(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.redis(a.host, "redis", data_mib=256)
    container.start()
    container.wait_port(bundle.PORT)
    with CounterClient(lab.host("c"), container.network.address, bundle.PORT) as client:
        client.wait_replies(50)
        with a.migrating("redis", b) as stream:
            migration = until(stream, event="opened")["migration"]
            # As a loss of power does: nothing that ran is left, nor anything in /run.
            unmount = "awk '$2 ~ \"^/run/\" { print $2 }' /proc/mounts | sort -r | xargs umount"
            a.host.run(["sh", "-c", f"kill -9 -1; {unmount}; rm -r /run/netns /run/runc /run/migrator"])
        assert b.known(migration)["missing_bytes"] > 0
        b.host.run(["pkill", "-9", "-f", "[v]oyfs.daemon"])
        client.wait_replies(50)
        a.start()
        assert a.end_of(migration)["result"]["outcome"] == "moved", a.log()
        assert b.known(migration)["phase"] == Hold.DETACHED
        assert b.known(migration).get("missing_bytes") is None
        assert remains(a.host) == []
        client.wait_replies(50)
        report = client.stop()
    assert report.unbroken, report


def test_the_source_may_be_removed_and_small_host_files_and_output_come_along(lab: Lab) -> None:
    """What an ordinary bundle has besides: read-only files of the host, and pipes for its output."""
    a, b = agents_on(lab.host("a"), lab.host("b"))
    script = "while :; do cat /etc/motto; sleep 0.05; done"
    container = bundle.make(a.host, "talker", ["/bin/sh", "-c", script], data_mib=1)
    motto = a.host.path_of(a.host.data / "motto")
    motto.write_text("live and let live\n")
    bundle.edit_config(
        container,
        lambda config: config["mounts"].append(
            {
                "destination": "/etc/motto",
                "type": "bind",
                "source": str(a.host.data / "motto"),
                "options": ["bind", "ro"],
            }
        ),
    )
    start = f"runc run -d --bundle {container.bundle} talker 2>&1 | (while read line; do :; done) &"
    a.host.run(["sh", "-c", f"({start}) </dev/null >/dev/null 2>&1"])
    a.host.run(["sh", "-c", "until runc state talker | grep -q running; do :; done"])
    done = a.migrate("talker", b, "--remove-source", "--no-verify")
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    assert not a.host.path_of(container.rootfs).exists()
    output = STATE / "containers/talker/output.log"
    b.host.run(["sh", "-c", f"until grep -q 'live and let live' {output}; do :; done"])
    a.host.kill()
    b.host.run(["sh", "-c", f": >{output}; until grep -q 'live and let live' {output}; do :; done"])
    assert container.at(b.host).status == "running"
