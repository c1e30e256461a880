"""Slides, readers and limits of ``bench_tiles.py``."""
