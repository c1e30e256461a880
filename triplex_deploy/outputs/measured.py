"""Measured expression beside a prediction: same spots, same genes, same units."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import Prediction


@dataclass(frozen=True, eq=False)
class Measured:
    """Labels of a prediction's N spots and G genes, in its order and after its label transform.

    ``values`` (N, G) are NaN where nothing was measured; ``pcc`` (G,) is each gene's correlation
    with the prediction over the spots that were, NaN where undefined. ``note`` says in a sentence
    where they come from.
    """

    values: NDArray[np.float32]
    pcc: NDArray[np.float64]
    note: str

    @property
    def n_genes(self) -> int:
        """Genes measured on at least one spot."""
        return int(np.isfinite(self.values).any(axis=0).sum())

    @property
    def n_spots(self) -> int:
        """Spots with at least one measured gene."""
        return int(np.isfinite(self.values).any(axis=1).sum())

    @property
    def median_pcc(self) -> float | None:
        """Median over the genes that have a correlation; None where none has."""
        known = self.pcc[np.isfinite(self.pcc)]
        return float(np.median(known)) if known.size else None

    def select_genes(self, names: tuple[str, ...], prediction: Prediction) -> Measured:
        """Only ``names`` of the prediction it belongs to."""
        chosen = gene_indices(names, prediction.genes)
        return Measured(np.ascontiguousarray(self.values[:, chosen]), self.pcc[chosen], self.note)

    def require_match(self, prediction: Prediction) -> None:
        """Raise ``ContractError`` unless the shapes are the prediction's."""
        n_genes = len(prediction.genes)
        wanted = (prediction.n_spots, n_genes)
        if self.values.shape != wanted or self.pcc.shape != (n_genes,):
            raise ContractError(
                f"measured: values {self.values.shape}, pcc {self.pcc.shape}; expected {wanted} "
                f"and ({n_genes},)"
            )
