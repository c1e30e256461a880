"""Write what is known about a synthetic section, and compute the best score its noise allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.demo.dataset import MadeSection
from triplex_deploy.demo.programs import GENES
from triplex_deploy.errors import ContractError
from triplex_deploy.expression.metrics import gene_correlations, nan_mean
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.outputs.measured import Measured
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.match import Matched


def write_truth(path: Path, section: MadeSection) -> None:
    """Write raw counts as h5ad, with the counts without noise as the layer ``expected``.

    Raises:
        OutputError: If the file cannot be written.
    """
    import anndata
    import pandas as pd

    row, column = section.grid_rc.T
    names = [f"{c}x{r}" for r, c in section.grid_rc.tolist()]
    obs = {"array_row": row, "array_col": column}
    obs |= {f"nuclei_{kind}": count for kind, count in section.composition.nuclei.items()}
    obs |= {f"area_{region}": share for region, share in section.composition.areas.items()}
    table = anndata.AnnData(
        X=section.counts.raw.astype(np.float32),
        obs=pd.DataFrame(obs, index=pd.Index(names, dtype=object)),
        var=pd.DataFrame(index=pd.Index(GENES, dtype=object)),
        obsm={"spatial": section.level0_xy},
        layers={"expected": section.counts.expected.astype(np.float32)},
    )
    with atomic_path(path) as temporary:
        table.write_h5ad(temporary)


def measure_ceiling(
    section: MadeSection, matched: Matched, prediction: Prediction
) -> dict[str, Any]:
    """Return the scores of a predictor that knows the expected counts, on the noisy labels.

    Args:
        section: The section, with its expected counts.
        matched: Labels and prediction of the same spots and genes.
        prediction: The prediction.

    Returns:
        ``pcc_m``, ``pcc`` by gene and ``mse`` of that predictor, and ``prediction_pcc_m`` and
        ``prediction_pcc`` of the prediction on labels without noise. Genes are in the order of
        ``matched.genes``.

    Raises:
        ContractError: If section and prediction do not belong together.
    """
    expected = _expected_labels(section, matched, prediction)
    pcc = gene_correlations(matched.labels, expected)
    noiseless = gene_correlations(expected, matched.predicted)
    return {
        "pcc_m": nan_mean(pcc),
        "pcc": pcc.tolist(),
        "mse": float(np.mean((expected - matched.labels) ** 2)),
        "prediction_pcc_m": nan_mean(noiseless),
        "prediction_pcc": noiseless.tolist(),
    }


def _expected_labels(
    section: MadeSection, matched: Matched, prediction: Prediction
) -> NDArray[np.float64]:
    """Return labels (N, G) of the expected counts, in the order of the prediction's spots."""
    if matched.transform is None or len(matched.labels) != prediction.n_spots:
        raise ContractError(f"{section.plan.name}: does not hold the predicted spots")
    expected = section.counts.expected[:, [GENES.index(gene) for gene in matched.genes]]
    labels = matched.transform(expected, section.grid_rc, section.counts.expected.sum(axis=1))
    row_of = {f"{c}x{r}": i for i, (r, c) in enumerate(section.grid_rc.tolist())}
    return labels[[row_of[name] for name in prediction.spot_names]]


def measured_beside(matched: Matched) -> Measured:
    """Return the labels for the report, to show beside the prediction."""
    return Measured(
        values=matched.labels.astype(np.float32),
        pcc=gene_correlations(matched.labels, matched.predicted),
        note="Measured counts are synthetic and include their noise; see metrics.json.",
    )
