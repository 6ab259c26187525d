"""Times programs on a host from within it, so that our own way into the host is not measured."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks.lab.hosts import Host

_PROGRAM: Final = """
import json, subprocess, sys, time
for argv in json.loads(sys.argv[1]):
    start = time.perf_counter()
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(json.dumps((time.perf_counter() - start) * 1000), flush=True)
    if done.returncode:
        sys.exit(f"{argv[0]}: status {done.returncode}")
"""


def milliseconds(
    host: Host, *commands: Sequence[str | os.PathLike[str]], env: Mapping[str, str] | None = None
) -> list[float]:
    """Run COMMANDS on HOST, one after the other; how long each took. Raises `LabError` at the first that fails."""
    words = json.dumps([[os.fspath(word) for word in command] for command in commands])
    result = host.run([sys.executable, "-I", "-S", "-c", _PROGRAM, words], env=env)
    return [float(line) for line in result.stdout.splitlines()]
