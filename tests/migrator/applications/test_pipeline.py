"""A pipeline of the shell: full pipes, a named one, and an end."""

from __future__ import annotations

from benchmarks.lab import bundle
from benchmarks.lab.hosts import Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import STATE, agents_on, events

LINES = 60_000
# The last reads slowly until it is told to go, so that every pipe before it is full at the freeze.
PIPELINE = f"""
cd /srv
mkfifo named
seq {LINES} | sed 's/$/ said/' | tee named | sort -n | sha256sum >sorted &
while read -r number word; do
    echo "$number" >>numbers
    [ -e go ] || sleep 0.02
done <named
wait
echo end >>numbers
"""


def test_a_pipeline_comes_to_its_end(lab: Lab) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    container = bundle.make(a.host, "pipes", ["/bin/sh", "-c", PIPELINE], data_mib=0)
    container.start()
    numbers = f"{container.rootfs}/srv/numbers"
    a.host.run(["sh", "-c", f"until [ $(cat {numbers} 2>/dev/null | wc -l) -gt 20 ]; do sleep 0.02; done"])
    done = a.migrate("pipes", b)
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    assert events(done)[-1]["result"]["outcome"] == "moved"
    assert remains(a.host) == []
    a.host.kill()
    moved = STATE / "containers/pipes"
    assert container.at(b.host).status == "running"
    b.host.run(
        ["sh", "-c", f"touch {moved}/root/srv/go; until grep -q end {moved}/root/srv/numbers; do sleep 0.02; done"]
    )
    there = b.host.path_of(moved / "store/data/srv")
    assert (there / "numbers").read_text().split() == [*map(str, range(1, LINES + 1)), "end"]
    expected = b.host.run(["sh", "-c", f"seq {LINES} | sed 's/$/ said/' | sha256sum"]).stdout
    assert (there / "sorted").read_text() == expected
    b.host.run(["sh", "-c", "until runc state pipes | grep -q stopped; do sleep 0.02; done"])
