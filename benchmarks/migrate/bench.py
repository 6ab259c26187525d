"""The client's gap, the freeze, the total time and the bytes of a migration, beside the floor and the peers.

Contenders alternate within one run, each with a redis of its own; figures are medians over runs. What is compared with
the floor was measured in the same series. `--add` adds to what is there, so that a long one can be taken in pieces.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.interrupt import cleaning_up
from benchmarks.migrate.contenders import CONTENDERS, NOT_RUN, Moved
from benchmarks.migrate.scene import Scene
from benchmarks.report import Report, milliseconds, size

SUMMARY: Final = "client's gap, freeze, time and bytes, beside the floor, runc with rsync, and a cold move"
RESULTS: Final = Path(__file__).parents[1] / "results"
FLOOR: Final = "floor (in place)"

GAP_RATIO: Final = 1.5  # of the client's gap to the floor's freeze, and to the floor's own gap
OVER_FREEZE_MS: Final = 30.0
MEMORY_RATIO: Final = 1.5


@dataclass(frozen=True)
class Sample:
    """One contender once."""

    contender: str
    disk_mib: int
    memory_mib: int
    load: float  # of the machine, a minute's average before
    moved: Moved


def measure(contender: str, disk_mib: int, memory_mib: int) -> Sample:
    """On hosts of its own."""
    load = os.getloadavg()[0]
    with Scene(disk_mib, memory_mib) as scene:
        scene.start_container()
        return Sample(contender, disk_mib, memory_mib, load, CONTENDERS[contender](scene))


Key = tuple[str, int, int]


def by_key(samples: Sequence[Sample]) -> dict[Key, list[Moved]]:
    """By contender, disk and memory."""
    found: dict[Key, list[Moved]] = {}
    for sample in samples:
        found.setdefault((sample.contender, sample.disk_mib, sample.memory_mib), []).append(sample.moved)
    return found


def median(values: Sequence[Moved], name: str) -> float:
    """Of one figure."""
    return float(statistics.median(getattr(value, name) for value in values))


def goals(samples: Sequence[Sample]) -> Report:
    """What was promised, as far as it was measured."""
    report, found = Report("Goals"), by_key(samples)
    for (contender, disk, memory), moved in found.items():
        floor = found.get((FLOOR, disk, memory))
        if contender == "voyager stop-copy" and memory == 0:
            over = statistics.median(each.gap - each.freeze for each in moved)
            report.check(
                f"client's gap at most the freeze plus {OVER_FREEZE_MS:.0f} ms, {disk} MiB of disk",
                over <= OVER_FREEZE_MS,
                f"{milliseconds(median(moved, 'freeze'))} and {over:+.1f} ms, over {len(moved)} runs",
            )
        if contender == "voyager stop-copy" and floor:
            ratio = median(moved, "gap") / median(floor, "freeze")
            report.check(
                f"client's gap at most {GAP_RATIO} times the floor, {disk} MiB of disk, {memory} MiB of memory",
                ratio <= GAP_RATIO,
                f"{milliseconds(median(moved, 'gap'))} to {milliseconds(median(floor, 'freeze'))}: {ratio:.2f} times",
            )
    lazy = {key[1:]: moved for key, moved in found.items() if key[0] == "voyager post-copy"}
    for disk in sorted({disk for disk, _ in lazy}):
        sizes = sorted(memory for each, memory in lazy if each == disk)
        small, large = (median(lazy[disk, memory], "freeze") for memory in (sizes[0], sizes[-1]))
        if len(sizes) > 1:
            limit = f"{MEMORY_RATIO} times that with {sizes[0]}"
            report.check(
                f"post-copy's downtime with {sizes[-1]} MiB of memory at most {limit}",
                large <= MEMORY_RATIO * small,
                f"{milliseconds(large)} to {milliseconds(small)}: {large / small:.2f} times",
            )
    return report


ROW: Final = ("contender", "disk", "memory", "runs", "client's gap", "freeze", "total", "bytes", "connection")


def rows(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
    """Medians for people."""
    return [
        (
            contender,
            f"{disk} MiB",
            f"{memory} MiB",
            str(len(moved)),
            milliseconds(median(moved, "gap")),
            milliseconds(median(moved, "freeze")),
            f"{median(moved, 'total') / 1000:.1f} s",
            size(median(moved, "bytes")),
            "kept" if all(each.connections == 1 for each in moved) else "broken",
        )
        for (contender, disk, memory), moved in sorted(by_key(samples).items(), key=lambda each: each[0][1:])
    ]


def document(samples: Sequence[Sample], report: Report, facts: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        "# Migrations, measured",
        "",
        "Medians. " + ", ".join(f"{key}: {value}" for key, value in facts.items()),
        "",
    ]
    lines += ["| " + " | ".join(ROW) + " |", "|" + "---|" * len(ROW)]
    lines += ["| " + " | ".join(row) + " |" for row in rows(samples)]
    lines += ["", "| goal | | |", "|---|---|---|"]
    lines += [f"| {each.name} | {'holds' if each.holds else 'missed'} | {each.detail} |" for each in report.checks]
    lines += ["", "Not measured:", "", *(f"- {name}: {why}" for name, why in NOT_RUN.items())]
    return "\n".join(lines) + "\n"


def plot(samples: Sequence[Sample], path: Path) -> bool:
    """Gap and freeze as bars; False where matplotlib is missing."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    found = by_key(samples)
    names = [f"{contender}\n{disk} MiB disk, {memory} MiB memory" for contender, disk, memory in found]
    figure, axes = pyplot.subplots(figsize=(9, 1 + 0.6 * len(names)), layout="constrained")
    for offset, name, label in ((-0.2, "gap", "client's gap"), (0.2, "freeze", "freeze")):
        places = [place + offset for place in range(len(names))]
        axes.barh(places, [median(moved, name) for moved in found.values()], height=0.38, label=label)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, medians")
    axes.legend()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
    return True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument("--runs", type=int, default=3, help="of each contender; default %(default)s")
    parser.add_argument("--disk", type=int, default=1024, metavar="MIB", help="data files; default %(default)s")
    parser.add_argument("--memory", default="0", metavar="MIB,...", help="besides redis' own; default %(default)s")
    parser.add_argument("--only", default=",".join(CONTENDERS), metavar="NAME,...", help="contenders; default: all")
    parser.add_argument("--add", action="store_true", help="to the results that are there")
    parser.add_argument("--out", type=Path, default=RESULTS, help="directory; default %(default)s")


def run(options: argparse.Namespace) -> int:
    """Exit status 0 if all goals that were measured are met."""
    console = Console()
    kept = options.out / "migrate.json"
    samples = load(kept) if options.add and kept.exists() else []
    names = [name for name in CONTENDERS if name in options.only.split(",")]
    if not names:
        console.print(f"no such contender; there are: {', '.join(CONTENDERS)}", highlight=False)
        return 2
    with cleaning_up():
        for number in range(options.runs):
            for memory in map(int, options.memory.split(",")):
                for name in names if number % 2 == 0 else reversed(names):  # nobody always comes after the same other
                    sample = measure(name, options.disk, memory)
                    samples.append(sample)
                    told = f"gap {sample.moved.gap:.0f} ms, freeze {sample.moved.freeze:.0f} ms"
                    console.print(f"run {number + 1}, {name}, {memory} MiB of memory: {told}", highlight=False)
                    write(options.out, samples)
    table = Table(*ROW, title="Medians", title_justify="left")
    for row in rows(samples):
        table.add_row(*row)
    console.print(table)
    report = goals(samples)
    report.show(console)
    if not plot(samples, options.out / "migrate.png"):
        console.print("no plot: matplotlib is missing, `scripts/setup bench` installs it")
    console.print(f"written to {kept} and migrate.md", highlight=False)
    return 0 if report.ok else 1


def load(path: Path) -> list[Sample]:
    """What an earlier piece has measured."""
    found = json.loads(path.read_text())["samples"]
    return [Sample(**{**each, "moved": Moved(**each["moved"])}) for each in found]


def write(directory: Path, samples: Sequence[Sample]) -> None:
    """After each sample: an interrupted series keeps what it has."""
    directory.mkdir(parents=True, exist_ok=True)
    report, facts = goals(samples), machine.facts()
    result = {
        "machine": facts,
        "not_measured": NOT_RUN,
        "goals": report.to_json()["checks"],
        "medians": [dict(zip(ROW, row, strict=True)) for row in rows(samples)],
        "samples": [asdict(sample) for sample in samples],
    }
    (directory / "migrate.json").write_text(json.dumps(result, indent=2) + "\n")
    (directory / "migrate.md").write_text(document(samples, report, facts))
