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
    """What gene selection needs of one section: its genes and their raw counts over all spots."""

    genes: tuple[str, ...]
    totals: NDArray[np.float64]
    """(G,) raw counts of each gene summed over the section's spots."""
    n_spots: int

    def __post_init__(self) -> None:
        if self.totals.shape != (len(self.genes),) or self.n_spots < 1:
            raise DatasetError(
                f"gene totals: {len(self.genes)} genes, totals {self.totals.shape}, "
                f"{self.n_spots} spots; give one total per gene and at least one spot"
            )
        if len(set(self.genes)) < len(self.genes):
            raise DatasetError("gene totals: a gene is listed twice; add up its counts first")


def pooled_means(sections: Sequence[GeneTotals]) -> dict[str, float]:
    """Mean raw count of every gene over all spots of all sections, a missing gene counting 0."""
    n_spots = sum(section.n_spots for section in sections)
    totals: dict[str, float] = {}
    for section in sections:
        for gene, total in zip(section.genes, section.totals.tolist(), strict=True):
            totals[gene] = totals.get(gene, 0.0) + total
    return {gene: total / n_spots for gene, total in totals.items()}


def select_genes(sections: Sequence[GeneTotals], count: int) -> tuple[str, ...]:
    """The ``count`` genes of largest pooled mean raw count, largest first, ties by symbol.

    Pass all sections for the paper's list, which looks at test patients too, or those of the
    training patients alone for an honest one. Raises ``DatasetError`` where there are too few.
    """
    if count < 1:
        raise DatasetError(f"genes: {count} asked for; select at least one")
    means = pooled_means(sections)
    if len(means) < count:
        raise DatasetError(
            f"genes: {count} asked for, but {len(sections)} sections hold {len(means)}; ask for "
            "fewer"
        )
    ranked = sorted(means, key=lambda gene: (-means[gene], gene))
    return tuple(ranked[:count])
