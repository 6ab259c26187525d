"""A migration that brings names and content early, while the container changes both all the time."""

from __future__ import annotations

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Lab
from tests.migrator.agents import STATE, agents_on, events

# Remembers what it has written into 140 files, moves a directory of theirs to and fro, makes and removes others, and
# looks at a fifth of the files each time: what is not as it was written is told in /srv/wrong.
RESTLESS = r"""
cd /srv; mkdir work; exec 9>>log
i=0
while [ $i -lt 140 ]; do
    mkdir -p work/d$((i / 7)); echo 0 >work/d$((i / 7))/f$((i % 7)); eval v$i=0; i=$((i + 1))
done
while :; do
    i=$((i + 1)); n=$((i % 140)); eval v$n=$i
    echo $i >work/d$((n / 7))/f$((n % 7)); echo $i >&9
    mkdir work/passing; echo $i >work/passing/f; rm -r work/passing
    mv work/d3 work/moved; mv work/moved work/d3
    k=$((i % 5)); while [ $k -lt 140 ]; do
        read -r got <work/d$((k / 7))/f$((k % 7)); eval "wanted=\$v$k"
        [ "$got" = "$wanted" ] || echo "$k: $got, not $wanted" >>wrong
        k=$((k + 5))
    done
    echo $i >count.new; mv count.new count
done
"""


def test_a_container_that_never_rests_finds_what_it_has_written(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(a.host, "restless", ["/bin/sh", "-c", RESTLESS], data_mib=8)
    container.start()
    a.host.run(["sh", "-c", f"until [ -e {container.rootfs}/srv/count ]; do :; done"])
    done = a.migrate("restless", b, "--warm")
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    told = events(done)
    result = told[-1]["result"]
    steps = {step["name"]: step for phase in result["timeline"]["phases"] for step in phase["steps"]}
    assert steps["warm"]["start"] + steps["warm"]["seconds"] < result["timeline"]["paused_s"]
    root = STATE / "containers/restless/root/srv"
    before = int(b.host.run(["cat", str(root / "count")]).stdout)
    b.host.run(["sh", "-c", f"until [ $(cat {root}/count) -gt {before + 10} ]; do sleep 0.1; done"])
    assert not b.host.path_of(root / "wrong").exists()
    log = b.host.path_of(STATE / "containers/restless/store/log").read_text()
    assert '"listed": ""' in next(line for line in log.splitlines() if '"refreshed"' in line)
    first = next(each for each in told if each["event"] == "progress" and each["phase"] == "hydrate")
    assert first["files_total"] > 3000, "all names were here"
