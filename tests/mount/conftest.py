"""Fixtures of the tests with real mounts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.programs import Pair, exported
from tests.support.trees import make_tree

MakePair = Callable[..., Pair]


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[MakePair]:
    """Makes `tmp_path/source` (by default a tree with everything), serves it and mounts it."""
    with ExitStack() as stack:

        def make(*options: str | Path, prepare: Callable[[Path], None] = make_tree) -> Pair:
            prepare(tmp_path / "source")
            return stack.enter_context(exported(tmp_path, *options))

        yield make


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    """A mount of everything for all tests of a module; each works in a directory of its own."""
    base = tmp_path_factory.mktemp("lasting")
    make_tree(base / "source")
    with exported(base) as made:
        yield made
