"""How samples are taken and read."""

import os
import subprocess
import sys

import pytest

from benchmarks.fs.document import goals_table, samples_table
from benchmarks.fs.goals import Verdict
from benchmarks.fs.sampling import Sample, Samples, in_turn, percentile, ticks_of, with_children


def test_nobody_always_comes_first() -> None:
    assert list(in_turn("abc", 3)) == list("abcbcacab")


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (0.991, 100), (1.0, 100)])
def test_percentile_is_the_nearest_rank(share: float, value: int) -> None:
    assert percentile(range(1, 101), share) == value


def test_percentile_of_one_value() -> None:
    assert percentile([7.0], 0.99) == 7.0


def test_tables_show_medians_with_their_spread() -> None:
    taken = Samples(
        Sample("row", "read", who, "loopback", value, "s", 0.0) for who in "ab" for value in (3.0, 1.0, 2.0)
    )
    assert "| read, loopback, s | 2 (1 to 3) | 2 (1 to 3) |" in samples_table(taken)
    assert "**not met**" in goals_table([Verdict("row", "what", "goal", "figure", met=False)])


def test_processor_time_of_a_family_counts_who_has_ended() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass"
    program = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert ticks_of([process.pid]) >= 0.19
        assert process.pid in with_children(os.getpid())
        process.kill()
