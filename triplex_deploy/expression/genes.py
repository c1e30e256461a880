"""Select the genes that a model predicts: the most abundant genes of a set of sections.

See docs/models.md, "Gene selection".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import DatasetError


@dataclass(frozen=True, eq=False)
class GeneTotals:
    """Holds the genes of a section and their total counts.

    Raises:
        DatasetError: The fields do not fit each other.
    """

    genes: tuple[str, ...]
    """Names of the genes."""
    totals: NDArray[np.float64]
    """Raw counts (G,) of each gene, summed over the spots of the section."""
    n_spots: int
    """Number of spots."""

    def __post_init__(self) -> None:
        if self.totals.shape != (len(self.genes),) or self.n_spots < 1:
            raise DatasetError(
                f"gene totals: {len(self.genes)} genes, totals {self.totals.shape}, "
                f"{self.n_spots} spots; give one total per gene and at least one spot"
            )
        if len(set(self.genes)) < len(self.genes):
            raise DatasetError("gene totals: a gene is listed twice; add up its counts first")


def pooled_means(sections: Sequence[GeneTotals]) -> dict[str, float]:
    """Return the mean raw count of each gene over all spots; a gene that a section lacks is 0."""
    n_spots = sum(section.n_spots for section in sections)
    totals: dict[str, float] = {}
    for section in sections:
        for gene, total in zip(section.genes, section.totals.tolist(), strict=True):
            totals[gene] = totals.get(gene, 0.0) + total
    return {gene: total / n_spots for gene, total in totals.items()}


def select_genes(sections: Sequence[GeneTotals], count: int) -> tuple[str, ...]:
    """Return the ``count`` genes with the largest mean raw count, largest first.

    Genes with equal means are in alphabetical order.

    Args:
        sections: Totals of the sections. The paper uses all sections, also those of test patients;
            use the training patients only, so that the list does not depend on the test.
        count: Number of genes.

    Raises:
        DatasetError: The sections have fewer genes, or ``count`` is below 1.
    """
    if count < 1:
        raise DatasetError(f"genes: {count} asked for; select at least one")
    means = pooled_means(sections)
    if len(means) < count:
        raise DatasetError(
            f"genes: {count} asked for, but all sections together hold {len(means)}; ask for fewer"
        )
    ranked = sorted(means, key=lambda gene: (-means[gene], gene))
    return tuple(ranked[:count])
