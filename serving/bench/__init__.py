"""Benchmarks: verified output first, then times, interleaved in one process."""
