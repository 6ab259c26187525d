"""A migration that brings names and content early, while the container changes both all the time."""

from __future__ import annotations

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Lab
from tests.migrator.agents import STATE, agents_on, events

# Remembers what it has written into 140 files, moves a directory of theirs to and fro, makes and removes others, and
# looks at a fifth of the files each time: what is not as it was written is told in /srv/wrong. It starts no programs:
# CRIU does not dump a task that waits, at that moment, for the program that it starts (vfork).
RESTLESS = r"""
import os
os.chdir("/srv")
written = dict.fromkeys(range(140), "0")

def path(number):
    return f"work/d{number // 7}/f{number % 7}"

def write(name, text):
    with open(name, "w") as file:
        file.write(text)

for number in written:
    os.makedirs(os.path.dirname(path(number)), exist_ok=True)
    write(path(number), "0")
log = open("log", "a", buffering=1)
count = 0
while True:
    count += 1
    written[count % 140] = str(count)
    write(path(count % 140), str(count))
    print(count, file=log)
    os.mkdir("work/passing")
    write("work/passing/f", str(count))
    os.unlink("work/passing/f")
    os.rmdir("work/passing")
    os.rename("work/d3", "work/moved")
    os.rename("work/moved", "work/d3")
    for number in range(count % 5, 140, 5):
        with open(path(number)) as file:
            got = file.read()
        if got != written[number]:
            write("wrong", f"{number}: {got}, not {written[number]}")
    write("count.new", str(count))
    os.rename("count.new", "count")
"""


def test_a_container_that_never_rests_finds_what_it_has_written(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(a.host, "restless", ["/usr/bin/python3", "-c", RESTLESS], data_mib=8, root="applications")
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
