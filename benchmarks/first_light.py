"""Downtime against the size of the disk, and against the floor of what runc and CRIU need in place.

For each size, several times, alternating: how long `voyfs mount` takes to answer, the floor on the very container that
moves next, and a migration with a client at work. Judges the three goals; see `goals`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.interrupt import cleaning_up
from benchmarks.lab import floor, timed, tls
from benchmarks.lab.hosts import Host
from benchmarks.lab.node import LabError
from benchmarks.report import Report, milliseconds
from benchmarks.stage import BIN, Stage

SUMMARY: Final = "downtime by disk size, and against the floor"
RESULTS: Final = Path(__file__).parent / "results"
REPLIES: Final = 200
MOUNTS: Final = 3  # in each run
PORT: Final = 7400

# Goals of the first light. The floor is that of runc with its default settings: what anybody has today.
SIZE_RATIO: Final = 1.2
FLOOR_RATIO: Final = 2.0
MOUNT_MS: Final = 1000.0


@dataclass(frozen=True)
class Sample:
    """One run at one size; times in milliseconds, `phases` of the timeline between pause and open network."""

    disk_mib: int
    mount: list[float]
    floor: float  # as runc does it by default
    floor_checkpoint: float
    floor_unlocked: float  # CRIU told to leave the network alone
    downtime: float
    gap: float
    hydration: float
    image_bytes: int
    load: float  # of the machine, a minute's average before the run
    phases: Mapping[str, float]


def measure(disk_mib: int) -> Sample:
    """One run."""
    load = os.getloadavg()[0]
    with Stage(disk_mib) as stage:
        container = stage.start_container()
        mounts = list(time_mounts(stage))
        with stage.count() as client:
            client.wait_replies(REPLIES)
            locked = floor.measure(container)
            client.wait_replies(REPLIES)
            unlocked = floor.measure(container, lock_network=False)
            client.wait_replies(REPLIES)
        stage.start_agents()
        with stage.count() as client:
            client.wait_replies(REPLIES)
            *_, last = stage.migrate("--no-verify")
            client.wait_replies(REPLIES)
            seen = client.stop()
        if last["event"] != "result":
            raise LabError(f"the migration failed: {last.get('error')}\n{stage.log_of(stage.b)}")
        if not seen.unbroken:
            raise LabError(f"the client was disturbed: {seen.errors}")
    timeline = last["result"]["timeline"]
    return Sample(
        disk_mib=disk_mib,
        mount=mounts,
        floor=locked.total,
        floor_checkpoint=locked.checkpoint,
        floor_unlocked=unlocked.total,
        downtime=timeline["downtime_s"] * 1000,
        gap=seen.gap_ms,
        hydration=next(p["seconds"] for p in timeline["phases"] if p["phase"] == "hydrate") * 1000,
        image_bytes=last["result"]["image_bytes"],
        load=load,
        phases=dict(phases_of(timeline)),
    )


def phases_of(timeline: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and milliseconds of what lies between the pause and the open network."""
    for phase in timeline["phases"]:
        if phase["phase"] in ("freeze", "dump", "restore"):
            yield phase["phase"], phase["seconds"] * 1000
        for step in phase["steps"]:
            if phase["phase"] in ("dump", "restore", "commit"):
                yield f"{step['name']} ({step['side']})", step["seconds"] * 1000


def time_mounts(stage: Stage) -> Iterator[float]:
    """How long `voyfs mount --daemon` takes, each time with a new store."""
    with serving(stage) as address:
        for number in range(MOUNTS):
            mountpoint, store = Host.data / f"mount-{number}", Host.data / f"store-{number}"
            stage.b.run(["mkdir", mountpoint])
            words = ["mount", address, str(mountpoint), "--store", str(store), "--daemon", "--warm"]
            yield timed.milliseconds(stage.b, [str(BIN / "voyfs"), *words, *tls.options(stage.b)])[0]
            stage.b.run([BIN / "voyfs", "unmount", mountpoint])


@contextmanager
def serving(stage: Stage) -> Iterator[str]:
    """`voyfs serve` of the container's root on host a; its address."""
    address = f"{stage.a.address}:{PORT}"
    words = ["serve", str(stage.container.rootfs), "--listen", address, *tls.options(stage.a)]
    server = stage.a.popen([str(BIN / "voyfs"), *words], stdout=subprocess.PIPE)
    assert server.stdout is not None
    with server.stdout as lines:
        if not lines.readline():
            raise LabError(f"voyfs serve ended with status {server.wait()}")
        try:
            yield address
        finally:
            server.terminate()
            server.wait(30)


def goals(samples: Sequence[Sample]) -> Report:
    """The three goals, with their figures."""
    report = Report("Goals")
    sizes = sorted({sample.disk_mib for sample in samples})

    def median(size: int, value: Callable[[Sample], float]) -> float:
        return statistics.median(value(sample) for sample in samples if sample.disk_mib == size)

    small, large = (median(size, lambda s: s.downtime) for size in (sizes[0], sizes[-1]))
    report.check(
        f"downtime with {sizes[-1]} MiB of disk at most {SIZE_RATIO} times that with {sizes[0]} MiB",
        large <= SIZE_RATIO * small,
        f"{milliseconds(large)} and {milliseconds(small)}: {large / small:.2f} times",
    )
    ratios = {size: median(size, lambda s: s.downtime) / median(size, lambda s: s.floor) for size in sizes}
    report.check(
        f"downtime at most {FLOOR_RATIO:.0f} times the floor",
        max(ratios.values()) <= FLOOR_RATIO,
        ", ".join(f"{size} MiB: {ratio:.2f} times" for size, ratio in ratios.items()),
    )
    slowest = {size: max(max(s.mount) for s in samples if s.disk_mib == size) for size in sizes}
    report.check(
        f"voyfs mount answers in less than {milliseconds(MOUNT_MS)}",
        max(slowest.values()) < MOUNT_MS,
        "slowest: " + ", ".join(f"{size} MiB: {milliseconds(each)}" for size, each in slowest.items()),
    )
    return report


def medians(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """By row, then by size: the median over the runs."""
    rows: dict[str, Callable[[Sample], float]] = {
        "downtime": lambda s: s.downtime,
        "client's gap": lambda s: s.gap,
        "floor": lambda s: s.floor,
        "floor, network left alone": lambda s: s.floor_unlocked,
        "voyfs mount": lambda s: statistics.median(s.mount),
        "hydration": lambda s: s.hydration,
    }
    names = list(dict.fromkeys(name for sample in samples for name in sample.phases))
    for name in names:
        rows[f"  {name}"] = lambda s, name=name: s.phases.get(name, 0.0)  # type: ignore[misc]
    sizes = sorted({sample.disk_mib for sample in samples})
    return {
        row: {str(size): statistics.median(value(s) for s in samples if s.disk_mib == size) for size in sizes}
        for row, value in rows.items()
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument("--sizes", default="64,1024,4096", metavar="MIB,...", help="data files; default %(default)s")
    parser.add_argument("--runs", type=int, default=3, help="of each size; default %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS / "first-light.json", help="default %(default)s")


def run(options: argparse.Namespace) -> int:
    """Exit status 0 if all goals are met."""
    console = Console()
    sizes = [int(text) for text in options.sizes.split(",")]
    samples: list[Sample] = []
    with cleaning_up():
        for number in range(options.runs):
            for size in sizes if number % 2 == 0 else reversed(sizes):  # no size always comes after the same other
                sample = measure(size)
                samples.append(sample)
                told = f"downtime {sample.downtime:.0f} ms, gap {sample.gap:.0f} ms, floor {sample.floor:.0f} ms"
                console.print(f"run {number + 1}, {size} MiB: {told}", highlight=False)
    show(console, samples)
    report = goals(samples)
    report.show(console)
    result = {
        "machine": machine.facts(),
        "runs": options.runs,
        "goals": report.to_json()["checks"],
        "medians_ms": medians(samples),
        "samples": [asdict(sample) for sample in samples],
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    console.print(f"written to {options.out}", highlight=False)
    return 0 if report.ok else 1


def show(console: Console, samples: Sequence[Sample]) -> None:
    """The medians as a table."""
    found = medians(samples)
    table = Table(title="Medians, milliseconds", title_justify="left")
    table.add_column("data files")
    for size in found["downtime"]:
        table.add_column(f"{size} MiB", justify="right")
    for row, values in found.items():
        table.add_row(row, *(f"{value:.0f}" for value in values.values()))
    console.print(table)
