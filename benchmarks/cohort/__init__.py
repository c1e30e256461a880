"""What ``bench_cohort.py`` measures."""
