"""Roots other than a plain directory: the merged tree of an overlay, as container engines make it, and read-only."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.lab import bundle
from benchmarks.lab.container import Container
from benchmarks.lab.hosts import Host, Lab
from benchmarks.lab.leaks import remains
from tests.migrator.agents import STATE, agents_on, bind, events

# Changes what is below without end: files are copied up, removed and replaced at every moment of a migration.
WORK = """
rm -r /usr/share/info; mv /etc/issue /etc/issue.moved; mkdir /usr/share/info; echo new >/usr/share/info/new
n=0
for file in $(find /usr/share /usr/lib/x86_64-linux-gnu/gconv -type f -size -64k); do
    n=$((n+1))
    case $((n % 3)) in 0) echo $n >>$file;; 1) rm $file;; 2) cp $file $file.new; mv $file.new $file;; esac
    echo $n >>/srv/log
    sleep 0.02
done
"""
READ_ONLY = """
n=0
while :; do
    n=$((n+1))
    if (: >/srv/forbidden) 2>/dev/null; then echo written >>/data/log; fi
    echo $n >>/data/log
    sleep 0.01
done
"""


def make_overlay(host: Host, container: Container) -> None:
    """Put an overlay over the cached root in place of the copy of it."""
    place = container.bundle
    lower = bundle.cached_root()
    script = f"""
        mv {place}/rootfs/srv {place}/srv && rm -rf {place}/rootfs && mkdir -p {place}/rootfs {place}/upper {place}/work
        mv {place}/srv {place}/upper/srv
        mount -t overlay overlay -o lowerdir={lower},upperdir={place}/upper,workdir={place}/work {place}/rootfs
        """
    host.run(["sh", "-e"], input=script)


@pytest.mark.parametrize("kind", ["overlay", "read-only"])
def test_roots_move(lab: Lab, kind: str) -> None:
    a, b = agents_on(lab.host("a"), lab.host("b"))
    work = WORK if kind == "overlay" else READ_ONLY
    container = bundle.make(a.host, "box", ["/bin/sh", "-c", work], data_mib=1)
    if kind == "overlay":
        make_overlay(a.host, container)
        log, moved = "rootfs/srv/log", "root/srv/log"
    else:
        (a.host.path_of(container.rootfs) / "data").mkdir()
        a.host.path_of(container.bundle / "data").mkdir()

        def change(config: dict[str, Any]) -> None:
            config["root"]["readonly"] = True
            config["mounts"].append(bind("/data", str(container.bundle / "data")))

        bundle.edit_config(container, change)
        log, moved = "data/log", "volumes/0/root/log"
    container.start()
    a.host.run(
        ["sh", "-c", f"until [ $(cat {container.bundle}/{log} 2>/dev/null | wc -l) -gt 20 ]; do sleep 0.02; done"]
    )
    done = a.migrate("box", b)
    assert done.returncode == 0, done.stderr + a.log() + b.log()
    assert events(done)[-1]["result"]["outcome"] == "moved"
    assert [line for line in remains(a.host) if "box" not in line] == []
    lines = a.host.run(["cat", container.bundle / log]).stdout.splitlines()
    a.host.kill()
    there = STATE / "containers/box" / moved
    b.host.run(["sh", "-c", f"until [ $(wc -l <{there}) -gt {len(lines) + 50} ]; do sleep 0.02; done"])
    count = b.host.run(["cat", there]).stdout.split()
    assert count == [str(number + 1) for number in range(len(count))]
    assert container.at(b.host).status == "running"
