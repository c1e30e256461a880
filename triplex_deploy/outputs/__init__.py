"""What a prediction is, and how it is written: h5ad, sidecar JSON, HTML report."""

from triplex_deploy.outputs.prediction import Prediction

__all__ = ["Prediction"]
