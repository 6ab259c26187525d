"""The limit of bytes a second, and how it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voyfs.core.bandwidth import Allowance, parse_rate


@pytest.mark.parametrize(
    ("text", "rate"), [("0", 0), ("50M", 50 << 20), ("1g", 1 << 30), ("1.5K", 1536), ("2000000", 2_000_000)]
)
def test_rates_that_are_understood(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["", "fast", "-1", "50MB", "1e9", "0.1", "nan", "1" * 40, "\uff15M"])
def test_rates_that_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|byte"):
        parse_rate(text)


@given(st.integers(1, 1 << 40), st.lists(st.tuples(st.integers(1, 1 << 22), st.floats(0, 100)), max_size=50))
def test_no_more_passes_than_the_rate_allows_and_one_piece(rate: int, pieces: list[tuple[int, float]]) -> None:
    allowance = Allowance(rate)
    now = 0.0
    passed = 0
    for size, idle in pieces:
        now += idle + allowance.delay(now + idle)
        assert passed <= rate * now * (1 + 1e-6) + 1 + (1 << 22)
        allowance.spend(size, now)
        passed += size


def test_without_a_limit_nothing_waits_and_a_limit_holds_from_then_on() -> None:
    allowance = Allowance(0)
    allowance.spend(1 << 40, 0)
    assert allowance.delay(0) == 0
    allowance.change(10, 1)
    assert allowance.delay(1) == 0
    allowance.spend(100, 1)
    assert allowance.delay(1) == 10
    allowance.spend(-50, 1)  # they were holes
    assert allowance.delay(1) == 5
    allowance.change(100, 2)
    assert allowance.delay(2) == pytest.approx(0.4)
    allowance.change(0, 2)
    assert allowance.delay(2) == 0
