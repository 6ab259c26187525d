"""What a container that was moved under load still has to wait for: demand fetches against the working set.

The working set is what the source's page cache held of the container's root; everything counts that anybody on the
target waited for, restoring included.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import machine
from benchmarks.interrupt import cleaning_up
from benchmarks.lab.node import LabError
from benchmarks.report import Report, size
from benchmarks.stage import BIN, Stage

SUMMARY: Final = "demand fetches after a migration, against the working set"
RESULTS: Final = Path(__file__).parent / "results"
REPLIES: Final = 500  # before the migration, and after it
SHARE: Final = 0.05  # of the working set


@dataclass(frozen=True)
class Sample:
    """One migration of redis with a client at work; bytes."""

    disk_mib: int
    working_set_bytes: int
    demand_bytes: int
    demand_fetches: int
    fetched_bytes: int  # demand and background
    load: float  # of the machine, a minute's average before

    @property
    def share(self) -> float:
        """Of the working set, on demand."""
        return self.demand_bytes / self.working_set_bytes


def measure(disk_mib: int) -> Sample:
    """On hosts of its own."""
    load = os.getloadavg()[0]
    with Stage(disk_mib) as stage:
        stage.start_container()
        forget(stage.a.path_of(stage.container.rootfs))
        stage.start_agents()
        with stage.count() as client:
            client.wait_replies(REPLIES)
            *_, last = stage.migrate("--no-verify")  # which reads all of the source's disk
            client.wait_replies(REPLIES)
            seen = client.stop()
        if last["event"] != "result" or not seen.unbroken:
            raise LabError(f"the migration failed: {last.get('error')} {seen.errors}")
        done = stage.b.run([BIN / "voyfs", "status", stage.moved.mountpoint, "--json"])
        status = json.loads(done.stdout)
    names = ("working_set_bytes", "demand_bytes", "demand_fetches", "fetched_bytes")
    return Sample(disk_mib=disk_mib, load=load, **{name: status[name] for name in names})


def forget(tree: Path) -> None:
    """Drop from the page cache what only came there because the tree was just made: all that nobody maps."""
    for directory, _, names in os.walk(tree):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def goals(samples: Sequence[Sample]) -> Report:
    """The one goal."""
    report = Report("Demand after a migration of redis")
    for number, sample in enumerate(samples, 1):
        demand = f"{size(sample.demand_bytes)} in {sample.demand_fetches} fetches"
        report.figure(f"run {number}", f"{demand}, of a working set of {size(sample.working_set_bytes)}")
    share = statistics.median(sample.share for sample in samples)
    report.check(f"demand at most {SHARE:.0%} of the working set", share <= SHARE, f"median {share:.2%}")
    return report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument("--disk", type=int, default=256, metavar="MIB", help="data files; default %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "warm.json", help="default %(default)s")


def run(options: argparse.Namespace) -> int:
    """Exit status 0 if the goal is met."""
    with cleaning_up():
        samples = [measure(options.disk) for _ in range(options.runs)]
    report = goals(samples)
    report.show(Console())
    result = {"machine": machine.facts(), "samples": [asdict(sample) for sample in samples], **report.to_json()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if report.ok else 1
