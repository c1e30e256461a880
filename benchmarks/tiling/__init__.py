"""What bench_tiles.py measures: synthesised slides, ways to read them, and limits."""
