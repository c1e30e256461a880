"""Parts of ``bench_predict.py``: the models it runs and the published way it compares with."""
