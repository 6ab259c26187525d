"""Checking a store offline: what contradicts itself is a problem, what cannot be vouched for a note."""

import os
from pathlib import Path

import pytest

from tests.store.support import at, entry, fetched, missing, opened, populate
from tests.support.trees import CAPABILITY
from voyfs.core.errors import StoreBusy, StoreError
from voyfs.core.limits import CHUNK
from voyfs.fsck import Findings, check
from voyfs.store.tree import ROOT

SIZE = 3 * CHUNK


def make(path: Path) -> None:
    """`whole` is complete, `part` has its first chunk, `mine` was written by the container."""
    with opened(path) as store:
        root = store.tree.node(ROOT)
        populate(store, root, *(entry(name, 10 + i, size=SIZE) for i, name in enumerate(("whole", "part", "mine"))))
        fetched(store, at(store, "whole"), 0, 1, 2)
        fetched(store, at(store, "part"), 0)
        store.content.write(at(store, "mine"), 0, b"m" * CHUNK)


def found(path: Path, *, repair: bool = False) -> Findings:
    return check(path, "this boot", repair=repair)


def test_a_sound_store_has_no_problems(tmp_path: Path) -> None:
    make(tmp_path / "store")
    findings = found(tmp_path / "store")
    assert findings.entries == 4
    assert findings.problem_count == findings.note_count == 0


def test_a_file_that_lost_its_end_is_fetched_anew(tmp_path: Path) -> None:
    make(tmp_path / "store")
    os.truncate(tmp_path / "store/data/whole", CHUNK)
    findings = found(tmp_path / "store")
    assert (findings.problem_count, findings.repaired_count) == (1, 0)
    assert findings.problems[0][0] == "data/whole"
    assert found(tmp_path / "store", repair=True).repaired_count == 1
    assert found(tmp_path / "store").problem_count == 0
    with opened(tmp_path / "store") as store:
        node = at(store, "whole")
        assert missing(node) == [0, 1, 2]
        assert store.content.attributes(node).size == SIZE
        assert store.records.totals.incomplete_files == 3


def test_a_file_that_is_fetched_anew_keeps_its_capability(tmp_path: Path) -> None:
    make(tmp_path / "store")
    os.truncate(tmp_path / "store/data/whole", CHUNK)
    os.setxattr(tmp_path / "store/data/whole", "security.capability", CAPABILITY)
    assert found(tmp_path / "store", repair=True).repaired_count == 1
    with opened(tmp_path / "store") as store:
        fetched(store, at(store, "whole"), 0, 1, 2)
        assert os.getxattr(tmp_path / "store/data/whole", "security.capability") == CAPABILITY


def test_what_the_container_wrote_and_is_lost_stays_a_problem(tmp_path: Path) -> None:
    make(tmp_path / "store")
    os.truncate(tmp_path / "store/data/mine", CHUNK)
    findings = found(tmp_path / "store", repair=True)
    assert (findings.problem_count, findings.repaired_count) == (1, 0)
    assert found(tmp_path / "store").problem_count == 1


def test_a_present_chunk_that_is_a_hole_is_only_distrusted(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with opened(tmp_path / "store") as store:
        node = at(store, "part")
        store.content.filled((node, [2]))  # the source has a hole there: no bytes came
    findings = found(tmp_path / "store")
    assert (findings.problem_count, findings.note_count) == (0, 1)
    found(tmp_path / "store", repair=True)
    with opened(tmp_path / "store") as store:
        assert missing(at(store, "part")) == [1, 2]


def test_a_record_without_its_entry_is_dropped(tmp_path: Path) -> None:
    make(tmp_path / "store")
    (tmp_path / "store/data/part").unlink()
    assert found(tmp_path / "store").problems == [("part", "has a record and no entry")]
    assert found(tmp_path / "store", repair=True).repaired_count == 1
    assert found(tmp_path / "store").problem_count == 0


def test_a_number_that_was_given_to_another_file_loses_its_record(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with opened(tmp_path / "store") as store:
        record = at(store, "whole").record
        assert record is not None
        record.mode = 0o120777
        store.records.save(record)
    assert found(tmp_path / "store").problem_count == 1
    assert found(tmp_path / "store", repair=True).repaired_count == 1
    with opened(tmp_path / "store") as store:
        assert at(store, "whole").record is None


def test_a_parked_file_is_no_stranger(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with opened(tmp_path / "store") as store:
        store.names.unlink(store.tree.node(ROOT), b"part")
    assert found(tmp_path / "store").problem_count == 0


def test_a_damaged_database_is_said_to_be_so(tmp_path: Path) -> None:
    make(tmp_path / "store")
    database = tmp_path / "store/state/store.db"
    (tmp_path / "store/state/store.db-wal").unlink(missing_ok=True)
    database.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match="cannot be read"):
        found(tmp_path / "store")


def test_only_a_store_that_nobody_uses_is_checked(tmp_path: Path) -> None:
    make(tmp_path / "store")
    with opened(tmp_path / "store"), pytest.raises(StoreBusy):
        found(tmp_path / "store")
    with pytest.raises(StoreError, match="is not a store"):
        found(tmp_path)
