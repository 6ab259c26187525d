"""Voyager's migrations beside what anybody can do with the same runtime, rsync and a script; see `bench`."""

from benchmarks.migrate.bench import SUMMARY, add_arguments, run

__all__ = ["SUMMARY", "add_arguments", "run"]
