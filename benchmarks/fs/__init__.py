"""voyfs against its peers, side by side on this machine; see `python -m benchmarks fs --help` and docs/PERFORMANCE.md.

Each row is written to OUT/fs-ROW.json when it is done, so an interrupted run keeps what it has; OUT/fs.md and the plots
are made of all the rows that are there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

from benchmarks import machine
from benchmarks.fs import bench, data, document, goals, rows_cold, rows_cost, rows_hydrate, rows_local
from benchmarks.fs.bench import Bench
from benchmarks.fs.sampling import Sample, Samples
from benchmarks.fs.scene import Scene
from benchmarks.interrupt import cleaning_up

SUMMARY: Final = "voyfs against sshfs, rclone, rsync, C pass-through and the plain directory"
RESULTS: Final = Path(__file__).resolve().parents[1] / "results"
NEEDED: Final = ("sshfs", "rclone", "rsync", "/usr/sbin/sshd", "cc", "git")

ROWS: Final[dict[str, Callable[[Bench], None]]] = {
    "stream": rows_cold.stream,
    "cold-files": rows_cold.cold_files,
    "latency": rows_cold.latency,
    "local-read": rows_local.local_read,
    "local-files": rows_local.local_files,
    "writes": rows_local.writes,
    "first-write": rows_cost.first_write,
    "hydrate": rows_hydrate.hydrate,
    "distance": rows_hydrate.distance,
    "memory": rows_cost.memory,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The subcommand's options."""
    parser.add_argument("--short", action="store_true", help="less data, each once: some minutes")
    parser.add_argument("--only", metavar="ROW,...", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--runs", type=int, metavar="N", help="instead of 3, or 1 with --short")
    parser.add_argument("--quiet", type=float, default=10, metavar="SECONDS", help="to wait for a quiet machine")
    parser.add_argument(
        "--first", action="store_true", help="go before others' work, which slows that down: only where it may wait"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"default {RESULTS}; build/bench with --short")


def run(options: argparse.Namespace) -> int:
    """Exit status 0 when everything was measured; the goals are told, not enforced."""
    names = options.only.split(",") if options.only else list(ROWS)
    for name in names:
        if name not in ROWS:
            print(f"no row called {name!r}; there are: {', '.join(ROWS)}", file=sys.stderr)
            return 2
    missing = [program for program in NEEDED if shutil.which(program) is None]
    if missing:
        print(f"missing: {', '.join(missing)}; `scripts/setup bench` installs them", file=sys.stderr)
        return 2
    counts = bench.SHORT if options.short else bench.FULL
    if options.runs:
        counts = bench.Counts(options.runs, options.runs, counts.probes, counts.patient)
    sizes = data.SHORT if options.short else data.FULL
    out: Path = options.out or (data.REPOSITORY / "build/bench" if options.short else RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    with cleaning_up(), Scene(sizes, options.quiet, first=options.first) as scene:
        for name in names:
            start = time.monotonic()
            print(f"{name}: {_about(name)}", flush=True)
            each = Bench(name, scene, counts, lambda line: print(line, flush=True))
            ROWS[name](each)
            seconds = time.monotonic() - start
            _save(out / f"fs-{name}.json", name, each.samples, counts, sizes, seconds)
            for verdict in goals.judge(name, each.samples):
                met = {True: "met: ", False: "NOT MET: ", None: ""}[verdict.met]
                print(f"  {met}{verdict.what}: {verdict.goal}: {verdict.figure}", flush=True)
            print(f"  took {seconds:.0f} s", flush=True)
    document.write(out, {name: _load(out / f"fs-{name}.json", name) for name in ROWS if _is_there(out, name)})
    print(f"written to {out}")
    return 0


def _about(name: str) -> str:
    return (ROWS[name].__doc__ or "").strip()


def _is_there(out: Path, name: str) -> bool:
    return (out / f"fs-{name}.json").exists()


def _save(path: Path, name: str, samples: Samples, counts: bench.Counts, sizes: data.Sizes, seconds: float) -> None:
    result = {
        "row": name,
        "about": _about(name),
        "machine": machine.facts(),
        "counts": asdict(counts),
        "sizes": asdict(sizes),
        "seconds": round(seconds, 1),
        "goals": [asdict(verdict) for verdict in goals.judge(name, samples)],
        "samples": [asdict(sample) for sample in samples],
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def _load(path: Path, name: str) -> tuple[str, Samples, list[goals.Verdict]]:
    result = json.loads(path.read_text())
    samples = Samples(Sample(**sample) for sample in result["samples"])
    return result["about"], samples, goals.judge(name, samples)
