"""Score a run or a prediction, as ``triplex-deploy evaluate`` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from triplex_deploy.errors import ConfigError
from triplex_deploy.outputs.h5ad import read_prediction
from triplex_deploy.outputs.prediction import Prediction


def evaluate(what: Prediction | str | Path, truth: str | Path | None = None) -> dict[str, Any]:
    """Score a finished run over its folds, or a prediction against measured counts.

    Args:
        what: Folder of a run; or a prediction, or the path of its h5ad.
        truth: Measured counts of a prediction: h5ad, ``.tsv`` or Space Ranger folder.

    Returns:
        The scores, as ``triplex-deploy evaluate --json`` prints them.

    Raises:
        ConfigError: If a prediction comes without truth, or a run with it.
        DatasetError: If the truth cannot be read, or no spot or gene matches.
        OutputError: If the run or the prediction cannot be read.
    """
    from triplex_deploy.training.evaluate import evaluate_prediction, evaluate_run
    from triplex_deploy.training.match import match_truth
    from triplex_deploy.training.run_files import without_nan

    is_run = not isinstance(what, Prediction) and Path(what).suffix != ".h5ad"
    if is_run != (truth is None):
        raise ConfigError("truth: a prediction needs its measured counts, and a run takes none")
    if truth is None:
        assert not isinstance(what, Prediction)
        scores: dict[str, Any] = without_nan(evaluate_run(Path(what)))
        return scores
    prediction = what if isinstance(what, Prediction) else read_prediction(what)
    matched = match_truth(prediction, Path(truth))
    of_slide: dict[str, Any] = without_nan(evaluate_prediction(matched, prediction.slide_name))
    return of_slide
