"""The demonstration, small: that it holds what it shows, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab import traces

REPOSITORY = Path(__file__).resolve().parents[2]
WHOLE_SECONDS = 240.0  # 20 s on an idle machine
END_SECONDS = 60.0
PHASES = ("redis on", "agents on", "a client counts", "prepare:", "runs on the target", "hydrate:", "detach:")


@contextmanager
def running(*options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The demo, and the lines that it has said and that were read so far."""
    command = [sys.executable, "-u", "-m", "benchmarks.demo", "--disk-mib", "64", *options]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process, []
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_to(process: subprocess.Popen[str], said: list[str], text: str) -> None:
    """Read on until a line starts with TEXT."""
    assert process.stdout is not None
    while not (said and said[-1].strip().startswith(text)):
        line = process.stdout.readline()
        assert line, f"it ended before '{text}': {said}"
        said.append(line)


def left_by(said: list[str]) -> list[str]:
    """Traces on the machine, once there are none or the time is up."""
    found = re.search(r"/\S+/([0-9a-f]{8})\b", "".join(said))
    assert found, said
    return traces.wait_gone(found[1], Path(found[0]))


@pytest.mark.timeout(WHOLE_SECONDS + END_SECONDS)
def test_the_demo_holds_what_it_shows(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    with running("--json", str(file)) as (process, said):
        assert process.stdout is not None
        said += process.stdout.readlines()
        assert process.wait(WHOLE_SECONDS) == 0, "".join(said)
    report = json.loads(file.read_text())
    assert report["ok"]
    assert [check["name"] for check in report["checks"] if not check["holds"]] == []
    assert len(report["checks"]) >= 9
    assert report["connections"] == 1
    assert report["freeze_ms"] > 0
    assert report["disk_bytes_before_resume"] < report["disk_bytes"] / 2
    assert report["timeline"]["phases"][-1]["phase"] == "detach"
    assert left_by(said) == []


def _interrupt(number: signal.Signals, phase: str, pause: float) -> None:
    """Ends a demo by signal NUMBER, PAUSE seconds after its line PHASE."""
    with running() as (process, said):
        read_to(process, said, "hosts a, b")  # names what must be gone afterwards
        read_to(process, said, phase)
        time.sleep(pause)  # not to wait for anything: to be anywhere within the phase
        process.send_signal(number)
        assert process.stdout is not None
        said += process.stdout.readlines()
        status = process.wait(END_SECONDS)
        message = f"{phase} + {pause:.3f} s: {''.join(said)}"
        assert status == 128 + number, message
        assert "everything was removed" in said[-1], message
        assert "Traceback" not in "".join(said), message
    assert left_by(said) == [], message


@pytest.mark.parametrize(("number", "phase"), [(signal.SIGTERM, "prepare:"), (signal.SIGINT, "hydrate:")])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals, phase: str) -> None:
    _interrupt(number, phase, 0)


@pytest.mark.timeout(3600)
def test_a_demo_interrupted_at_any_moment_leaves_nothing(torture: bool, seed: int) -> None:
    """The moment is in the message if it fails."""
    choose = random.Random(seed)
    for _ in range(20 if torture else 1):
        _interrupt(choose.choice((signal.SIGINT, signal.SIGTERM)), choose.choice(PHASES), choose.uniform(0, 1))
