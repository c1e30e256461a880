"""Cases of ``bench_predict.py``."""
