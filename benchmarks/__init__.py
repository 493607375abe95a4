"""What TinyReptile promises in figures, measured: `python -m benchmarks`."""
