"""The test laboratory: real hosts, containers and clients on one machine, for tests, the demo and the benchmarks."""
