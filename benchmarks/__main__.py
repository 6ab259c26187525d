"""`python -m benchmarks NAME`: runs one benchmark; each prints a table and writes JSON to benchmarks/results/.

A benchmark is a module with SUMMARY, add_arguments(parser) and run(options), which gives the exit status.
"""

from __future__ import annotations

import argparse
import sys
from typing import Protocol

from benchmarks import faults, first_light, fs, migrate, warm


class Benchmark(Protocol):
    """What such a module offers."""

    SUMMARY: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its options."""

    def run(self, options: argparse.Namespace) -> int:
        """Run it; the exit status."""


BENCHMARKS: dict[str, Benchmark] = {
    "first-light": first_light,
    "fs": fs,
    "migrate": migrate,
    "faults": faults,
    "warm": warm,
}


def main() -> int:
    """The exit status of the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measures Voyager on this machine.")
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, module in BENCHMARKS.items():
        module.add_arguments(commands.add_parser(name, help=module.SUMMARY, description=module.__doc__))
    options = parser.parse_args()
    return BENCHMARKS[options.name].run(options)


if __name__ == "__main__":
    sys.exit(main())
