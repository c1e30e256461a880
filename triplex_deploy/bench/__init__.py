"""Measure, record and compare the speed of bundles on this machine: graphs and whole slides."""
