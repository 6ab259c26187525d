"""What a container that was moved under load still has to wait for; see `bench`."""

from benchmarks.warm.bench import SUMMARY, add_arguments, run

__all__ = ["SUMMARY", "add_arguments", "run"]
