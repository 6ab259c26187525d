"""The product's agent, with a gate before each call of its adapters that is a point.

Nothing else of it differs, and the command line, `python -m benchmarks.faults.agent agent`, is the same.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

from benchmarks.faults import gate
from benchmarks.faults.points import POINTS, Point
from migrator import cli, runc


def _guard(point: Point) -> None:
    module = importlib.import_module(f"migrator.{point.module}")
    owner, _, name = point.method.partition(".")
    holder = getattr(module, owner)
    original: Callable[..., Any] = getattr(holder, name)

    @functools.wraps(original)
    def guarded(self: Any, *arguments: Any, **options: Any) -> Any:
        if not point.first or str(arguments[0]) == point.first:
            gate.pass_by(point.name)
        return original(self, *arguments, **options)

    setattr(holder, name, guarded)


def main() -> None:
    """The agent."""
    for point in POINTS:
        if point.module:
            _guard(point)
    options = vars(runc)["criu_options"]
    vars(runc)["criu_options"] = lambda *given: f"{options(*given)}action-script {gate.DIRECTORY / gate.SCRIPT}\n"
    cli.main()


if __name__ == "__main__":
    main()
