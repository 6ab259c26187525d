# make demo | make test: everything a fresh Debian 12 or 13 needs, then the demonstration or all tests.
bin := .venv/bin
ARGS ?=

.PHONY: setup check test torture faults demo bench protos lock clean

setup:
	@scripts/setup

# Style, types, import contracts, generated code: needs no CRIU and runs nothing.
check:
	@scripts/setup packages python
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy voyfs migrator benchmarks
	$(bin)/lint-imports
	scripts/protos --check

test: setup
	$(bin)/python -m pytest $(ARGS)

# The long runs, an hour or more: hundreds of kills, link cuts and crash points, fifty migrations in bad weather; other
# seeds each time. ARGS="-k kills", ARGS="--seed 7"
torture: setup
	$(bin)/python -m pytest --torture --timeout 7200 tests/demo tests/store tests/rpc tests/mount tests/power \
		tests/migrator/test_to_and_fro.py $(ARGS)

# Breaks everything, at every step of a migration, an hour or more; writes docs/FAULTS.md. ARGS="--points commit"
faults: setup
	$(bin)/python -m benchmarks faults $(ARGS)

demo: setup
	$(bin)/python -m benchmarks.demo $(ARGS)

# The file system against its peers, short: some minutes. ARGS="--only stream", or without --short: python -m benchmarks fs
bench: setup
	@scripts/setup bench
	$(bin)/python -m benchmarks fs --short $(ARGS)

protos:
	@scripts/setup packages python
	scripts/protos

# The newest versions that pyproject.toml and requirements-build.in allow, pinned with their hashes.
lock:
	scripts/lock

clean:
	rm -rf .venv build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
