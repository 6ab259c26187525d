"""Breaks everything that can break, at every step of every phase of a migration, on real hosts, and watches.

For each cell: one copy of the container answers its client again within a stated time, by itself; no reply is lost or
repeated on the client's one connection; two copies never act at once; and nothing is left behind.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks.faults.injuries import INJURIES, Injury
from benchmarks.faults.points import POINTS, Point
from benchmarks.faults.scene import Outcome, Scene
from benchmarks.faults.table import document
from benchmarks.interrupt import cleaning_up

SUMMARY: Final = "the fault matrix: every injury at every step of a migration"
DOCUMENT: Final = Path(__file__).resolve().parents[2] / "docs/FAULTS.md"


def cells(points: Sequence[str], injuries: Sequence[str]) -> Iterator[tuple[Point, Injury]]:
    """All that make sense, or those of the named points and injuries."""
    for point in POINTS:
        for injury in INJURIES:
            asked = (not points or point.name in points) and (not injuries or injury.name in injuries)
            if asked and injury.applies(point):
                yield point, injury


def walk(wanted: Sequence[tuple[Point, Injury]], told: Callable[[Outcome], None]) -> None:
    """One cell after the other; after a cell that failed, on hosts that are new."""
    waiting = list(wanted)
    while waiting:
        with Scene() as scene:
            while waiting:
                outcome = scene.cell(*waiting.pop(0))
                told(outcome)
                if not outcome.passed:
                    break


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument("--points", default="", metavar="NAME,...", help="only these; default all")
    parser.add_argument("--injuries", default="", metavar="NAME,...", help="only these; default all")
    parser.add_argument(
        "--out", type=Path, help=f"write the table there; default {DOCUMENT.name}, if all cells are run"
    )
    parser.add_argument("--json", type=Path, help="write the outcomes there too, after each cell")
    parser.add_argument("--resume", action="store_true", help="do not walk again what has passed according to --json")


def _read(path: Path | None) -> tuple[list[Outcome], float]:
    """What passed in an earlier walk, and how long that took."""
    if path is None or not path.exists():
        return [], 0.0
    kept = json.loads(path.read_text())
    found = [Outcome(**{**each, "problems": tuple(each["problems"])}) for each in kept["outcomes"]]
    return [each for each in found if each.passed], kept["seconds"]


def run(options: argparse.Namespace) -> int:
    """Exit status 0 if every cell passes."""
    named = [[name for name in text.split(",") if name] for text in (options.points, options.injuries)]
    wanted = list(cells(*named))
    found, before = _read(options.json) if options.resume else ([], 0.0)
    passed = {(each.point, each.injury) for each in found}
    waiting = [(point, injury) for point, injury in wanted if (point.name, injury.name) not in passed]
    start = time.monotonic()

    def seconds() -> float:
        return before + time.monotonic() - start

    def tell(outcome: Outcome) -> None:
        found.append(outcome)
        verdict = outcome.ended if outcome.passed else "FAILED: " + "; ".join(outcome.problems)
        print(f"{len(found)}/{len(wanted)} {outcome.injury} at {outcome.point}: {verdict}", flush=True)
        if options.json is not None:
            kept = {"seconds": seconds(), "outcomes": [asdict(each) for each in found]}
            options.json.write_text(json.dumps(kept, indent=1) + "\n")

    with cleaning_up():
        walk(waiting, tell)
    place = options.out or (DOCUMENT if len(wanted) == len(list(cells((), ()))) else None)
    text = document(found, seconds())
    if place is not None:
        place.write_text(text)
    else:
        print(text)
    failed = [outcome for outcome in found if not outcome.passed]
    print(f"{len(found) - len(failed)} of {len(found)} cells pass, in {seconds():.0f} s", file=sys.stderr)
    return 1 if failed else 0
