"""Benchmarks: every figure of ours beside the raw limit, measured in the same run."""
