"""What an agent concludes about pages that are on their way, from what their guard has left."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from migrator.core.errors import Lost, RuntimeFailed
from migrator.pages import COMPLETE, GUARDED, LOST, OUTCOME, LazyPages, note


def test_memory_that_came_with_the_images_is_complete(tmp_path: Path) -> None:
    assert LazyPages(tmp_path).complete(0)


def test_pages_are_on_their_way_as_long_as_their_guard_lives(tmp_path: Path) -> None:
    with open(tmp_path / GUARDED, "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        assert not LazyPages(tmp_path).complete(0)
        note(tmp_path, COMPLETE)
        assert LazyPages(tmp_path).complete(0)


def test_lost_pages_are_lost_for_every_agent_that_asks(tmp_path: Path) -> None:
    (tmp_path / GUARDED).write_text(str(tmp_path))
    note(tmp_path, LOST)
    for _ in range(2):
        with pytest.raises(Lost, match="before all pages"):
            LazyPages(tmp_path).complete(0)


def test_a_guard_that_was_killed_takes_the_container_with_it(tmp_path: Path) -> None:
    group = tmp_path / "group"  # of tasks that are gone; a real one is emptied by the same call
    group.mkdir()
    (tmp_path / GUARDED).write_text(str(group))
    with pytest.raises(Lost):
        LazyPages(tmp_path).complete(0)
    assert (tmp_path / OUTCOME).read_text() == LOST


def test_a_daemon_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RuntimeFailed) as caught:
        LazyPages(tmp_path).start({"PATH": "/usr/bin:/bin"}, ["sh", "-c", "echo no route to the source >&2; exit 1"])
    assert caught.value.log == ("no route to the source",)
