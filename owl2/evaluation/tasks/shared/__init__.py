"""The common parts of several benchmarks."""
