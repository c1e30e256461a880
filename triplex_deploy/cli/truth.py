"""Read measured counts as the labels that a report shows beside a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from triplex_deploy.outputs.measured import Measured
    from triplex_deploy.outputs.prediction import Prediction


def measured_labels(prediction: Prediction, truth: Path) -> Measured:
    """Return measured labels in the order and units of a prediction.

    Args:
        prediction: The prediction to compare with.
        truth: Measured counts: h5ad, .tsv or Space Ranger folder.

    Returns:
        The labels, NaN where nothing was measured, with the correlation of each gene.

    Raises:
        DatasetError: If no spot or no gene matches.
    """
    import numpy as np

    from triplex_deploy.expression.metrics import gene_correlations
    from triplex_deploy.outputs.measured import Measured
    from triplex_deploy.outputs.units import describe_units
    from triplex_deploy.training.match import match_truth

    matched = match_truth(prediction, truth)
    place = np.ix_(matched.spot_index, matched.gene_index)
    labels = np.full(prediction.expression.shape, np.nan, np.float32)
    labels[place] = matched.labels
    pcc = np.full(len(prediction.genes), np.nan)
    pcc[matched.gene_index] = gene_correlations(labels[place], matched.predicted)
    note = f"Measured values are from {truth.name}, used without change."
    if matched.transform is not None:
        units = describe_units(matched.transform.to_dict())
        note = f"Measured counts are from {truth.name}, as {units}."
    return Measured(labels, pcc, note)
