"""The supplied unit: it is one, and ends nothing but the agent."""

from __future__ import annotations

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"
UNITS = sorted(DOCS.glob("*.service"))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_has_nothing_to_say_about_it(unit: Path, tmp_path: Path) -> None:
    verify = shutil.which("systemd-analyze")
    assert verify, "install systemd (scripts/setup)"
    program = Path(sys.prefix) / "bin" / ("migrator" if "migrator" in unit.name else "voyfs")
    text = unit.read_text().replace(f"/usr/local/bin/{program.name}", str(program))
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = subprocess.run([verify, "verify", "--man=no", copy], capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if unit.name in line]
    assert (done.returncode, said) == (0, [])


def test_what_the_agent_has_started_outlives_it() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string((DOCS / "migrator-agent.service").read_text().replace("\\\n", ""))
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
