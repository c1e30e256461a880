"""Hold measured expression for the spots and genes of a prediction."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError
from triplex_deploy.outputs.genes import gene_indices
from triplex_deploy.outputs.prediction import Prediction


@dataclass(frozen=True, eq=False)
class Measured:
    """Measured labels of a prediction's N spots and G genes, in the order of the prediction."""

    values: NDArray[np.float32]
    """(N, G), after the label transform of the model; NaN where nothing was measured."""
    pcc: NDArray[np.float64]
    """(G,): correlation with the prediction over the measured spots; NaN if undefined."""
    note: str
    """One sentence on where the values come from."""

    @property
    def n_genes(self) -> int:
        """Number of genes measured on at least one spot."""
        return int(np.isfinite(self.values).any(axis=0).sum())

    @property
    def n_spots(self) -> int:
        """Number of spots with at least one measured gene."""
        return int(np.isfinite(self.values).any(axis=1).sum())

    @property
    def median_pcc(self) -> float | None:
        """Median correlation of the genes that have a correlation; None if no gene has."""
        known = self.pcc[np.isfinite(self.pcc)]
        return float(np.median(known)) if known.size else None

    def select_genes(self, names: tuple[str, ...], prediction: Prediction) -> Measured:
        """Return the values of some genes of the prediction; raises ``ConfigError`` if unknown."""
        chosen = gene_indices(names, prediction.genes)
        return Measured(np.ascontiguousarray(self.values[:, chosen]), self.pcc[chosen], self.note)

    def require_match(self, prediction: Prediction) -> None:
        """Raise ``ContractError`` if the shapes differ from those of the prediction."""
        n_genes = len(prediction.genes)
        wanted = (prediction.n_spots, n_genes)
        if self.values.shape != wanted or self.pcc.shape != (n_genes,):
            raise ContractError(
                f"measured: values {self.values.shape}, pcc {self.pcc.shape}; expected {wanted} "
                f"and ({n_genes},)"
            )
