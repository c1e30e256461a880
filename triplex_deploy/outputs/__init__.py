"""Hold predictions, write them in every file format, and read them back."""

from triplex_deploy.outputs.prediction import Prediction

__all__ = ["Prediction"]
