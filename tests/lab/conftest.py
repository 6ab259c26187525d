"""Fixtures for the tests of the laboratory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.lab.hosts import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """A lab without hosts."""
    with Lab() as lab:
        yield lab
