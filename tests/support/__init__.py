"""Helpers of the tests: trees to export, programs to run, trees to compare."""
