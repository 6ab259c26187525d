"""Options of all tests."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", action="store_true", help="also the long runs: more seeds, more steps, more kills")
    parser.addoption("--seed", type=int, default=None, help="the one seed to run random workloads with")


@pytest.fixture(scope="session")
def torture(request: pytest.FixtureRequest) -> bool:
    """Whether the long runs are wanted."""
    return bool(request.config.getoption("--torture"))
