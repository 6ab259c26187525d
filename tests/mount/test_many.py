"""Very many entries, and few descriptors to use them with."""

import os
import resource
import subprocess
from pathlib import Path

from tests.support.programs import exported

DESCRIPTORS = 1024


def test_many_files_through_few_descriptors(tmp_path: Path, torture: bool) -> None:
    """One directory of all, and the same number in many directories; listed, opened, renamed, removed."""
    count = 200_000 if torture else 2_000
    for name in ("flat", "deep"):
        (tmp_path / "source" / name).mkdir(parents=True)
    for number in range(count):
        (tmp_path / "source" / "flat" / f"{number:06}").write_bytes(b"%d" % number)
    for number in range(count // 10):
        directory = tmp_path / "source" / "deep" / f"{number // 100}" / f"{number}"
        directory.mkdir(parents=True)
        (directory / "f").write_bytes(b"%d" % number)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, before[1]))  # inherited by all that is started here
    try:
        with exported(tmp_path, "--warm") as pair:
            flat = pair.path / "flat"
            with os.scandir(flat) as entries:
                assert sum(entry.stat().st_size > 0 for entry in entries) == count
            for number in range(0, count, 7):
                assert (flat / f"{number:06}").read_bytes() == b"%d" % number
            for number in range(count // 10):
                path = pair.path / "deep" / f"{number // 100}" / f"{number}" / "f"
                assert path.read_bytes() == b"%d" % number
            limits = Path(f"/proc/{pair.mount.daemon}/limits").read_text()
            assert f"Max open files            {DESCRIPTORS}" in limits
            assert len(os.listdir(f"/proc/{pair.mount.daemon}/fd")) < DESCRIPTORS
            pair.mount.hydrate()
            assert pair.mount.ask("verify")["report"]["differences"] == []
            for number in range(0, count, 5):
                os.rename(flat / f"{number:06}", flat / f"r{number}")
            assert len(os.listdir(flat)) == count
            assert subprocess.run(["rm", "-r", flat], check=False).returncode == 0
            pair.mount.unmount()
            assert not os.listdir(pair.mount.store / "orphans")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
