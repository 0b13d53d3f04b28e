"""Benchmarks: commands that measure, compare with a peer in the same run, and store JSON under docs/benchmarks."""
