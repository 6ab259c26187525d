"""The data of the file system benchmarks: trees below one directory, random but the same in shape at each run."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
MIB: Final = 1 << 20
ROOT_FILES: Final = 8000
SPARSE_BYTES: Final = 100 << 30
PER_DIRECTORY: Final = 25
SEED: Final = 1


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    big_mib: int
    small_files: int
    root_files: int
    database_rows: int


FULL: Final = Sizes(big_mib=2048, small_files=100_000, root_files=ROOT_FILES, database_rows=1_000_000)
SHORT: Final = Sizes(big_mib=512, small_files=10_000, root_files=ROOT_FILES, database_rows=200_000)


def random_file(path: Path, mib: int) -> None:
    """MIB of what no compression and no hole can shorten."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))


def root(path: Path, files: int) -> None:
    """A container's root from debootstrap; as it has fewer files than FILES, its /usr comes again in /srv."""
    built = subprocess.run([REPOSITORY / "scripts/rootfs"], check=True, capture_output=True, text=True)
    origin = Path(built.stdout.strip())
    _copy(origin, path)
    copies = 0
    while len(regular_files(path)) < files:
        _copy(origin / "usr", path / "srv" / f"usr-{copies}")
        copies += 1


def _copy(origin: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", origin, path], check=True)


def small_files(path: Path, count: int) -> None:
    """COUNT files with sizes like those of a source tree: a median of 3 KiB, a mean of 7."""
    choose = random.Random(SEED)
    noise = os.urandom(4 * MIB)
    for number in range(count):
        directory = path / f"{number // (PER_DIRECTORY * 40):03}" / f"{number // PER_DIRECTORY % 40:02}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        size = min(int(choose.lognormvariate(8.0, 1.3)), MIB)
        start = choose.randrange(len(noise) - size)
        (directory / f"file-{number}.c").write_bytes(noise[start : start + size])


def database(path: Path, rows: int) -> None:
    """A data directory of sqlite: one table, one index."""
    path.mkdir(parents=True)
    choose = random.Random(SEED)
    with sqlite3.connect(path / "data.db") as db:
        db.execute("CREATE TABLE item (id INTEGER PRIMARY KEY, key TEXT, body TEXT)")
        db.executemany(
            "INSERT INTO item VALUES (?, ?, ?)",
            ((n, f"{choose.getrandbits(64):016x}", f"{choose.getrandbits(800):0200x}") for n in range(rows)),
        )
        db.execute("CREATE INDEX by_key ON item (key)")
    db.close()


def sparse_file(path: Path) -> None:
    """A file of 100 GiB with a MiB of data at the start, in the middle and at the end."""
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        for part in range(3):
            file.seek((SPARSE_BYTES - MIB) // 2 * part)
            file.write(os.urandom(MIB))


def repository(path: Path, tree: Path) -> None:
    """A git repository with the content of TREE."""
    git = ["git", "-C", str(path), "-c", "user.name=bench", "-c", "user.email=bench@example", "-c", "gc.auto=0"]
    shutil.copytree(tree, path, symlinks=True)
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*git, *words], check=True)


def regular_files(path: Path) -> list[str]:
    """The regular files below PATH, relative to it, in the order of a walk."""
    found = []
    for directory, directories, names in os.walk(path):
        directories.sort()
        for name in sorted(names):
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink():
                found.append(str(file.relative_to(path)))
    return found
