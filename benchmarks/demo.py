"""The demonstration: a running redis moves between two hosts under its client's hands, and its disk follows.

`python -m benchmarks.demo`, or `make demo`. Exit status 0 if everything that was promised held, 1 if not; ctrl-C and
SIGTERM leave nothing behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from rich.console import Console

from benchmarks import machine
from benchmarks.interrupt import cleaning_up
from benchmarks.lab import digests, redis
from benchmarks.lab.client import Report as Seen
from benchmarks.lab.counter import CounterClient
from benchmarks.lab.node import LabError
from benchmarks.report import Report, milliseconds, size
from benchmarks.screen import Screen
from benchmarks.stage import NAME, Event, Moved, Stage
from voyfs import control

T = TypeVar("T")

MIB: Final = 1 << 20
REPLIES: Final = 200  # between two stages of the demo: enough to see that it counts
OWN: Final = ("srv/redis",)  # what redis writes, and so is not to be equal to the source any more


class Demo:
    """One run on a stage that is set up."""

    def __init__(self, stage: Stage, console: Console) -> None:
        """Nothing happens yet."""
        self.stage = stage
        self.console = console
        self.report = Report("What moved, and what it cost")
        self.report.facts = {"disk_mib": stage.disk_mib, "machine": machine.facts()}

    def run(self) -> None:
        """From the start of the container to the end of its first host."""
        stage = self.stage
        self.console.print(f"hosts a, b and a client's, below {stage.lab.directory}", highlight=False)
        self.say(f"redis on host a, with a Debian root and {stage.disk_mib} MiB of data files", stage.start_container)
        self.say("agents on a and b, with mutual TLS", stage.start_agents)
        with stage.count() as client:
            client.wait_replies(REPLIES)
            self.console.print(f"a client counts; now: migrator migrate {NAME} {stage.target}", highlight=False)
            result = self.migrate(client)
            if result is not None:
                self.after(client, result)
            self.judge_client(client.stop(), moved=result is not None)

    def migrate(self, client: CounterClient) -> Event | None:
        """Migrate; the result, or None if there is none."""
        screen = Screen(self.console, client)
        before: dict[str, Any] = {}
        last: Event = {}
        with screen.live():
            for last in self.stage.migrate():
                screen.show(last)
                if last["event"] == "opened":
                    before = self.status(self.stage.moved)
        if last["event"] == "error":
            detail = "; ".join([last["error"], *last.get("log", [])])
            self.report.check("migration", False, detail)
            return None
        self.take_figures(last["result"], before)
        return last

    def status(self, moved: Moved) -> dict[str, Any]:
        """What the mount on host b says of itself."""
        store = self.stage.b.path_of(moved.store)
        shown: dict[str, Any] = control.ask(store, "status")["status"]
        return shown

    def take_figures(self, result: dict[str, Any], before: dict[str, Any]) -> None:
        """What the migration itself measured; BEFORE is the disk's state when the container ran again."""
        report, timeline = self.report, result["timeline"]
        phases = {phase["phase"]: phase for phase in timeline["phases"]}
        steps = {step["name"]: step for phase in timeline["phases"] for step in phase["steps"]}
        moved = self.status(self.stage.moved)
        freeze_ms = timeline["downtime_s"] * 1000
        hydration = phases["hydrate"]["seconds"]
        report.figure("container stood still", milliseconds(freeze_ms))
        report.figure("moved before it ran again", f"{size(result['image_bytes'])} of memory and state")
        present = f"{size(before['fetched_bytes'])} of disk, of {size(moved['bytes']['total'])}"
        report.figure("", present)
        report.figure("hydration", f"{hydration:.1f} s for {size(moved['fetched_bytes'])} after it ran again")
        report.check("migration", result["outcome"] == "moved", f"{NAME} moved from a to b")
        verified = steps.get("verify")
        detail = f"in {verified['seconds']:.1f} s, before the source was released" if verified else "was not made"
        report.check("voyfs verify: digests of all files", verified is not None, detail)
        report.facts |= {
            "freeze_ms": freeze_ms,
            "memory_bytes": result["image_bytes"],
            "disk_bytes_before_resume": before["fetched_bytes"],
            "disk_bytes": moved["bytes"]["total"],
            "hydration_s": hydration,
            "timeline": timeline,
        }

    def after(self, client: CounterClient, result: Event) -> None:
        """Host a goes away; nothing may change for anybody."""
        stage, report = self.stage, self.report
        moved = stage.moved
        client.wait_replies(REPLIES)
        source = self.say(
            "comparing both trees, file by file", lambda: digests.of(stage.a, stage.container.rootfs, OWN)
        )
        here = digests.of(stage.b, moved.mountpoint, OWN)
        different = digests.differing(source, here)
        report.check("both trees, read from outside", not different, _compared(len(here), different))

        self.say("host a goes away: agent, network, files, all of it", stage.a.kill)
        client.wait_replies(REPLIES)
        report.check("without host a", not stage.a.directory.exists(), "its tree is gone, and the client counts on")
        again = self.say("reading everything on b again", lambda: digests.of(stage.b, moved.mountpoint, OWN))
        plain = digests.of(stage.b, moved.store / "data", OWN)
        report.check("the same files, without host a", again == here, _compared(len(again), []))
        different = digests.differing(here, plain)
        report.check("the store is a plain directory", not different, _compared(len(plain), different))
        self.say("redis writes all its data anew", self.rewrite)
        client.wait_replies(REPLIES)

    def rewrite(self) -> None:
        """Redis rewrites its files on b and its own tools read them back."""
        stage = self.stage
        address = stage.container.network.address
        try:
            redis.rewrite(stage.c, address)
            files = "/srv/redis/appendonlydir/appendonly.aof.manifest", "/srv/redis/dump.rdb"
            for tool, file in zip(("redis-check-aof", "redis-check-rdb"), files, strict=True):
                stage.b.run(["runc", "exec", NAME, tool, file])
            written = stage.b.run(["runc", "exec", NAME, "du", "-sh", "/srv/redis"]).stdout.split()[0]
        except (LabError, OSError) as error:
            self.report.check("redis rewrites its data", False, str(error))
        else:
            self.report.check("redis rewrites its data", True, f"{written}; read back without error")

    def judge_client(self, seen: Seen, *, moved: bool) -> None:
        """What the one client saw from beginning to end."""
        report = self.report
        report.figures.insert(1, ("longest gap the client saw", milliseconds(seen.gap_ms)))
        exact = seen.count > 0 and seen.last - seen.first + 1 == seen.count
        detail = f"{seen.count} replies, {seen.first} to {seen.last}"
        report.check("counter: none missed, none twice, never back", exact, detail)
        said = f": {seen.errors[0]}" if seen.errors else ""
        report.check("connection unbroken", seen.unbroken, f"{seen.connections} connection{said}")
        if moved:
            value = redis.command(self.stage.c, self.stage.container.network.address, "GET", "voyager")
            # The client may have been stopped between a request and its reply.
            kept = value in (str(seen.last), str(seen.last + 1))
            report.check("counter kept by redis", kept, f"{value or 'nothing'} stored")
        report.facts |= {"gap_ms": seen.gap_ms, "replies": seen.count, "connections": seen.connections}

    def say(self, text: str, act: Callable[[], T]) -> T:
        """Tell what happens, do it, tell how long it took."""
        start = time.monotonic()
        self.console.print(f"{text} ... ", end="", highlight=False)
        result = act()
        self.console.print(f"{time.monotonic() - start:.1f} s", highlight=False)
        return result


def _compared(count: int, different: list[str]) -> str:
    if different:
        return f"{len(different)} of {count} differ, the first is {different[0] or '/'}"
    return f"{count} entries equal"


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.demo", description=__doc__)
    parser.add_argument("--disk-mib", type=int, default=1024, metavar="N", help="data files, 1024 by default")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too; - for stdout")
    options = parser.parse_args()
    to_stdout = str(options.json) == "-"
    console = Console(stderr=to_stdout)
    with cleaning_up():
        with Stage(options.disk_mib) as stage:
            demo = Demo(stage, console)
            try:
                demo.run()
            except LabError as error:
                demo.report.check("the demonstration itself", False, str(error))
                for host in (stage.a, stage.b):
                    demo.report.facts[f"agent_{host.name}_log"] = stage.log_of(host)
        demo.report.show(console)
        if options.json:
            text = json.dumps(demo.report.to_json(), indent=2) + "\n"
            sys.stdout.write(text) if to_stdout else options.json.write_text(text)
    return 0 if demo.report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
