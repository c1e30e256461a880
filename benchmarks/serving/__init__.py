"""Graphs and slides over backends and precisions, on whatever GPU or CPU is there."""
