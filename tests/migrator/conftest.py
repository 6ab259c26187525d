"""Fixtures of the tests on real hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.lab.hosts import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab without hosts."""
    with Lab() as lab:
        yield lab


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """One for all tests of a module that leave it as they found it."""
    with Lab() as lab:
        yield lab
