"""Parts of the benchmarks of the CNI plugin."""
