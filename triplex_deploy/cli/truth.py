"""Measured counts as the labels a prediction is compared with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from triplex_deploy.errors import DatasetError

if TYPE_CHECKING:
    from triplex_deploy.expression import LabelTransform
    from triplex_deploy.outputs.measured import Measured
    from triplex_deploy.outputs.prediction import Prediction

logger = logging.getLogger(__name__)


def measured_labels(prediction: Prediction, truth: Path) -> Measured:
    """The h5ad ``truth`` in the order and units of ``prediction``, spots matched by name.

    Whole numbers are counts and go through the label transform recorded with the prediction;
    fractions are taken as labels already. Raises ``DatasetError`` where nothing matches.
    """
    import numpy as np

    from triplex_deploy.data.measured_h5ad import read_measured
    from triplex_deploy.expression.metrics import gene_correlations
    from triplex_deploy.outputs.measured import Measured
    from triplex_deploy.outputs.units import describe_units

    names, genes, values, grid_rc = read_measured(truth)
    column = {gene: i for i, gene in enumerate(genes)}
    shared = [i for i, gene in enumerate(prediction.genes) if gene in column]
    row_of = {name: i for i, name in enumerate(names)}
    rows = [i for i, name in enumerate(prediction.spot_names) if name in row_of]
    if not shared or not rows:
        raise DatasetError(
            f"{truth}: shares {len(rows)} spots and {len(shared)} genes with the prediction; it "
            'needs obs["array_row"], obs["array_col"] and gene symbols as var_names'
        )
    panel = values[:, [column[prediction.genes[i]] for i in shared]]
    note = f"Measured values are from {truth.name}, taken as they are."
    if (values == np.round(values)).all():
        transform = recorded_transform(prediction)
        _warn_of_gaps(truth, transform, len(prediction.genes) - len(shared))
        panel = transform(panel, grid_rc, values.sum(axis=1))
        note = f"Measured counts are from {truth.name}, as {describe_units(transform.to_dict())}."
    labels = np.full(prediction.expression.shape, np.nan, np.float32)
    labels[np.ix_(rows, shared)] = panel[[row_of[prediction.spot_names[i]] for i in rows]]
    pcc = np.full(len(prediction.genes), np.nan)
    pcc[shared] = gene_correlations(
        labels[np.ix_(rows, shared)], prediction.expression[np.ix_(rows, shared)]
    )
    return Measured(labels, pcc, note)


def recorded_transform(prediction: Prediction) -> LabelTransform:
    """The label transform in the prediction's run facts; the paper's, said aloud, without one."""
    from triplex_deploy.expression import LabelTransform

    recorded = prediction.run.get("label_transform")
    if recorded:
        return LabelTransform.from_dict(recorded)
    logger.warning("the prediction records no label transform; the paper's is used for the counts")
    return LabelTransform()


def _warn_of_gaps(truth: Path, transform: LabelTransform, n_missing: int) -> None:
    if n_missing and transform.library == "panel":
        logger.warning(
            "%s lacks %d of the predicted genes; counts are divided by the sum over the others",
            truth,
            n_missing,
        )
