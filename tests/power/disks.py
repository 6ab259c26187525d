"""File systems on disks whose power can be cut: what was not made durable is lost, in part and in no order."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.power.recorder import entries
from tests.support.programs import SECONDS, first_line
from voyfs.syscalls import MNT_DETACH, mount, umount

PROJECT = Path(__file__).parents[2]
_SIZE = 96 << 20
_BLOCK = 4096


def make_image(path: Path) -> None:
    """An empty ext4."""
    with path.open("wb") as image:
        image.truncate(_SIZE)
    options = ["-q", "-b", str(_BLOCK), "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard"]
    subprocess.run(["mkfs.ext4", *options, path], check=True)


@contextmanager
def recorded(base: Path) -> Iterator[Path]:
    """An empty ext4 at BASE/recorded; BASE/log has all that is written to its disk, which was BASE/blank before."""
    make_image(base / "blank")
    shutil.copy(base / "blank", base / "image")
    (base / "recorder").mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.power.recorder", base / "recorder", base / "image", base / "log"],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert first_line(process) == "ready"
        try:
            with looped(base / "recorder" / "disk", base / "recorded") as where:
                yield where
        finally:
            umount(os.fsencode(base / "recorder"), MNT_DETACH)
    finally:
        assert process.stdout is not None
        process.stdout.close()
        process.wait(SECONDS)


@contextmanager
def looped(image: Path, where: Path) -> Iterator[Path]:
    """The ext4 in the file `image`, mounted at `where`."""
    where.mkdir(exist_ok=True)
    done = subprocess.run(["losetup", "--find", "--show", image], check=True, capture_output=True, text=True)
    device = done.stdout.strip()
    try:
        mount(os.fsencode(device), os.fsencode(where), b"ext4", 0, b"")
        try:
            yield where
        finally:
            umount(os.fsencode(where), 0)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def after_power_loss(base: Path, position: int, choose: random.Random, image: Path) -> None:
    """Makes `image` what the disk holds when power is lost as the log has come to `position`.

    All that was written before the last barrier is there; of what came later each write is there whole, in part,
    or not at all.
    """
    pending: list[tuple[int, bytes]] = []
    shutil.copy(base / "blank", image)
    with image.open("r+b", buffering=0) as disk:
        for end, offset, data in entries(base / "log"):
            if end > position:
                break
            if offset is None:
                for at, durable in pending:
                    os.pwrite(disk.fileno(), durable, at)
                pending.clear()
            else:
                pending.append((offset, data))
        for at, volatile in pending:
            blocks = range(0, len(volatile), _BLOCK)
            kept = choose.choice((blocks, (), [block for block in blocks if choose.random() < 0.5]))
            for block in kept:
                os.pwrite(disk.fileno(), volatile[block : block + _BLOCK], at + block)
