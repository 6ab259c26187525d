"""What a container that was moved under load still has to wait for: demand fetches against the working set.

The working set is what the source's page cache held of the container's root right before, looked at from outside;
everything counts that anybody on the target waited for, restoring included. Of PostgreSQL also how its clients fare:
transactions before, right after, later.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from rich.console import Console

from benchmarks import machine
from benchmarks.interrupt import cleaning_up
from benchmarks.report import Report, size
from benchmarks.warm import loads
from benchmarks.warm.loads import Sample

SUMMARY: Final = "demand fetches after a migration, against the working set"
RESULTS: Final = Path(__file__).parents[1] / "results"
APPLICATIONS: Final = ("redis", "postgresql")
SHARE: Final = 0.05  # of the working set


def goals(samples: Sequence[Sample]) -> Report:
    """The one goal, for each application."""
    report = Report("Demand after a migration")
    for application in APPLICATIONS:
        those = [sample for sample in samples if sample.application == application]
        if not those:
            continue
        for number, sample in enumerate(those, 1):
            report.figure(f"{application}, run {number}", _told(sample))
        share = statistics.median(sample.share for sample in those)
        name = f"{application}: demand at most {SHARE:.0%} of the working set"
        report.check(name, share <= SHARE, f"median {share:.2%}")
    return report


def _told(sample: Sample) -> str:
    demand = f"{size(sample.demand_bytes)} in {sample.demand_fetches} fetches"
    told = f"{demand}, of a working set of {size(sample.working_set_bytes)}"
    if sample.rates is not None:
        rates = sample.rates
        told += f"; transactions a second {rates.before:.0f}, then {rates.first:.0f}, later {rates.later:.0f}"
    return told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument(
        "--only", default=",".join(APPLICATIONS), metavar="APPLICATION,...", help="of them; default %(default)s"
    )
    parser.add_argument("--disk", type=int, default=256, metavar="MIB", help="files beside redis; default %(default)s")
    parser.add_argument("--scale", type=int, default=40, help="of pgbench, 15 MiB each; default %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="default %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "warm.json", help="default %(default)s")


def run(options: argparse.Namespace) -> int:
    """Exit status 0 if the goal is met by all that was measured."""
    console = Console()
    measures: dict[str, Callable[[], Sample]] = {
        "redis": lambda: loads.redis(options.disk),
        "postgresql": lambda: loads.database(options.scale),
    }
    names = [name for name in APPLICATIONS if name in options.only.split(",")]
    if not names:
        console.print(f"no such application; there are: {', '.join(APPLICATIONS)}", highlight=False)
        return 2
    samples: list[Sample] = []
    with cleaning_up():
        for number in range(options.runs):
            for name in names:
                sample = measures[name]()
                samples.append(sample)
                console.print(f"run {number + 1}, {name}: {_told(sample)}", highlight=False)
                write(options.out, samples)
    report = goals(samples)
    report.show(console)
    return 0 if report.ok else 1


def write(path: Path, samples: Sequence[Sample]) -> None:
    """After each sample: an interrupted series keeps what it has."""
    result = {"machine": machine.facts(), "samples": [asdict(each) for each in samples], **goals(samples).to_json()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
