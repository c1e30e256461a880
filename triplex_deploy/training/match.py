"""A prediction and the measurements of the same spots and genes, as labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.measured import read_measured
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import Prediction

logger = logging.getLogger(__name__)

RECORDED: Final = "recorded with the prediction"
PUBLISHED: Final = "the paper's, the prediction records none"
GIVEN: Final = "given"


@dataclass(frozen=True, eq=False)
class Matched:
    """The spots and genes that prediction and truth share, and where they are in the prediction.

    ``transform`` made the labels out of counts, and ``transform_is`` says where it is from; both
    are None where the truth holds labels already.
    """

    labels: NDArray[np.float64]  # (N, G)
    predicted: NDArray[np.float32]  # (N, G)
    genes: tuple[str, ...]
    level0_xy: NDArray[np.float64]  # (N, 2)
    spot_index: NDArray[np.int64]  # (N,)
    gene_index: NDArray[np.int64]  # (G,)
    transform: LabelTransform | None
    transform_is: str | None


def match_truth(
    prediction: Prediction, truth: Path, transform: LabelTransform | None = None
) -> Matched:
    """Match ``truth``, which ``read_measured`` reads, by spot and gene names.

    Whole numbers in it are raw counts and go through ``transform``, or else the one the prediction
    records, over the model's whole panel even if only some of its genes were predicted; fractions
    are taken as labels. Raises ``DatasetError`` where nothing matches.
    """
    measured = read_measured(truth)
    shared = [i for i, gene in enumerate(prediction.genes) if gene in measured.column_of]
    rows = [i for i, name in enumerate(prediction.spot_names) if name in measured.row_of]
    if not shared or not rows:
        raise DatasetError(
            f"{truth}: shares {len(rows)} spots and {len(shared)} genes with the prediction; it "
            "needs the array coordinates of the same spots and gene symbols"
        )
    genes = tuple(prediction.genes[i] for i in shared)
    chosen, source = None, None
    if measured.are_counts:
        chosen, source = _choose(prediction, transform)
        wanted = prediction.run.get("panel", prediction.genes)
        panel = [gene for gene in wanted if gene in measured.column_of]
        _warn_of_gaps(truth, chosen, len(wanted) - len(panel))
        labels = chosen(measured.of(panel), measured.grid_rc, measured.library)
        labels = labels[:, [panel.index(gene) for gene in genes]]
    else:
        labels = measured.of(genes)
    return Matched(
        labels=labels[[measured.row_of[prediction.spot_names[i]] for i in rows]],
        predicted=prediction.expression[np.ix_(rows, shared)],
        genes=genes,
        level0_xy=prediction.level0_xy[rows],
        spot_index=np.array(rows, np.int64),
        gene_index=np.array(shared, np.int64),
        transform=chosen,
        transform_is=source,
    )


def choose_genes(
    requested: Sequence[str] | None, prediction: Prediction, matched: Matched, pcc: Sequence[float]
) -> list[int]:
    """Positions in ``matched.genes`` of the requested ones, or of the 3 best by ``pcc``.

    Raises ``ConfigError`` for a gene that is not predicted, with the closest one, or not measured.
    """
    if requested is None:
        ranked = np.argsort(-np.nan_to_num(np.asarray(pcc, float), nan=-2), kind="stable")
        return [int(i) for i in ranked[:3] if np.isfinite(pcc[i])]
    gene_indices(requested, prediction.genes)
    unmeasured = [gene for gene in requested if gene not in matched.genes]
    if unmeasured:
        raise ConfigError(
            f"gene {unmeasured[0]}: predicted, but not in --truth; it has {len(matched.genes)} of "
            f"the {len(prediction.genes)} predicted genes, such as {', '.join(matched.genes[:3])}"
        )
    return [matched.genes.index(gene) for gene in requested]


def _choose(prediction: Prediction, transform: LabelTransform | None) -> tuple[LabelTransform, str]:
    recorded = prediction.run.get("label_transform")
    if transform is not None:
        return transform, GIVEN
    if recorded:
        return LabelTransform.from_dict(recorded), RECORDED
    logger.warning("the prediction records no label transform; the paper's is used for the counts")
    return LabelTransform(), PUBLISHED


def _warn_of_gaps(truth: Path, transform: LabelTransform, n_missing: int) -> None:
    if n_missing and transform.library == "panel":
        logger.warning(
            "%s lacks genes of the panel: %d; counts are divided by the sum over the others",
            *(truth, n_missing),
        )
