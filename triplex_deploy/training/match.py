"""Match a prediction with the measurements of the same spots and genes, as labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.assemble import MAX_ALONE
from triplex_deploy.data.measured import read_measured
from triplex_deploy.errors import ConfigError, DatasetError
from triplex_deploy.expression import LabelTransform
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import Prediction
from triplex_deploy.training.join import PLACES, join_spots

logger = logging.getLogger(__name__)

RECORDED: Final = "recorded with the prediction"
PUBLISHED: Final = "the paper's, the prediction records none"
GIVEN: Final = "given"


@dataclass(frozen=True, eq=False)
class Matched:
    """Holds the N spots and G genes that prediction and truth share."""

    labels: NDArray[np.float64]
    """Labels (N, G)."""
    predicted: NDArray[np.float32]
    """Predictions (N, G) of the same spots and genes."""
    genes: tuple[str, ...]
    """The G genes, in the order of the prediction."""
    level0_xy: NDArray[np.float64]
    """Spot centers (N, 2): x, y in level-0 pixels."""
    spot_index: NDArray[np.int64]
    """Indices (N,) of the spots in the prediction."""
    gene_index: NDArray[np.int64]
    """Indices (G,) of the genes in the prediction."""
    transform: LabelTransform | None
    """The steps from counts to labels; None if the truth holds labels."""
    transform_is: str | None
    """Where the transform comes from; None if the truth holds labels."""
    joined_by: str = PLACES
    """How the spots were joined: ``centers``, ``barcodes`` or ``array coordinates``."""
    predicted_alone: int = 0
    """Number of predicted spots without a measured spot."""
    measured_alone: int = 0
    """Number of measured spots without a predicted spot."""

    @property
    def partners(self) -> str:
        """Return a sentence that says how spots were joined and how many have no partner."""
        left = ""
        if self.predicted_alone or self.measured_alone:
            left = (
                f"; {self.predicted_alone} predicted and {self.measured_alone} measured spots "
                "have no partner"
            )
        return f"{len(self.labels)} spots joined by {self.joined_by}{left}"


def match_truth(
    prediction: Prediction, truth: Path, transform: LabelTransform | None = None
) -> Matched:
    """Match the spots and genes of a prediction with measurements.

    Spots are joined by ``join_spots``, genes by symbol. If all values of the truth are whole
    numbers, they are raw counts and become labels, over the whole panel of the model even if only
    some of its genes were predicted. Otherwise they are taken as labels.

    Args:
        prediction: The prediction.
        truth: A file or folder that ``read_measured`` reads.
        transform: The steps from counts to labels; by default those that the prediction records.

    Returns:
        Labels and predictions of the shared spots and genes.

    Raises:
        DatasetError: The truth cannot be read, no gene matches, or few spots have a partner.
    """
    measured = read_measured(truth)
    shared = [i for i, gene in enumerate(prediction.genes) if gene in measured.column_of]
    if not shared:
        raise DatasetError(
            f"{truth}: shares 0 genes with the prediction; it needs gene symbols such as "
            f"{', '.join(prediction.genes[:3])}"
        )
    joined = join_spots(truth, prediction, measured)
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
    matched = Matched(
        labels=labels[joined.measured],
        predicted=prediction.expression[joined.predicted][:, shared],
        genes=genes,
        level0_xy=prediction.level0_xy[joined.predicted],
        spot_index=joined.predicted,
        gene_index=np.array(shared, np.int64),
        transform=chosen,
        transform_is=source,
        joined_by=joined.by,
        predicted_alone=prediction.n_spots - len(joined.predicted),
        measured_alone=len(measured.grid_rc) - len(joined.measured),
    )
    most_alone = max(matched.predicted_alone, matched.measured_alone)
    if most_alone > MAX_ALONE * len(matched.labels):
        logger.warning("%s: %s", truth, matched.partners)
    return matched


def choose_genes(
    requested: Sequence[str] | None, prediction: Prediction, matched: Matched, pcc: Sequence[float]
) -> list[int]:
    """Return the positions of genes in ``matched.genes``.

    Args:
        requested: Names of genes, or None for the 3 genes with the best correlation.
        prediction: The prediction.
        matched: The genes that prediction and truth share.
        pcc: Correlation (G,) of each shared gene; NaN if it has none.

    Raises:
        ConfigError: A requested gene is not predicted or not measured.
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
            truth,
            n_missing,
        )
