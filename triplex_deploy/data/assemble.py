"""From a table of counts and a table of spots to a ``Section``: join, merge, order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.section import Section

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class CountTable:
    """Raw counts as read: ids (N,), gene symbols (G,), and a SciPy sparse (N, G)."""

    spot_ids: tuple[str, ...]
    genes: tuple[str, ...]
    counts: Any


@dataclass(frozen=True, eq=False)
class SpotTable:
    """Spot positions as read: ids (M,), array coordinates (M, 2), level-0 centres (M, 2)."""

    spot_ids: tuple[str, ...]
    grid_rc: NDArray[np.int64]
    level0_xy: NDArray[np.float64]


@dataclass(frozen=True)
class SectionFacts:
    """What a section is, besides its arrays."""

    name: str
    patient: str
    slide_path: Path
    slide_mpp: float
    is_hexagonal: bool


@dataclass(frozen=True, eq=False)
class Joined:
    """Counts (N, G), SciPy sparse, of N spots and the places of these."""

    genes: tuple[str, ...]
    counts: Any
    grid_rc: NDArray[np.int64]
    level0_xy: NDArray[np.float64]


def assemble_section(facts: SectionFacts, table: CountTable, spots: SpotTable) -> Section:
    """The section of a joined table."""
    joined = join_tables(facts.name, table, spots)
    return Section(
        name=facts.name,
        patient=facts.patient,
        slide_path=facts.slide_path,
        slide_mpp=facts.slide_mpp,
        counts=joined.counts,
        genes=joined.genes,
        grid_rc=joined.grid_rc,
        level0_xy=joined.level0_xy,
        is_hexagonal=facts.is_hexagonal,
    )


def join_tables(name: str, table: CountTable, spots: SpotTable) -> Joined:
    """Keep the spots that have counts, ordered by (row, column), with each gene symbol once."""
    row_of = {spot_id: row for row, spot_id in enumerate(table.spot_ids)}
    kept = np.array([i for i, spot_id in enumerate(spots.spot_ids) if spot_id in row_of], np.int64)
    dropped = len(spots.spot_ids) - len(kept)
    if dropped or len(kept) < len(table.spot_ids):
        logger.info(
            "%s: %d spots have counts; %d positions and %d count rows have no partner",
            *(name, len(kept), dropped, len(table.spot_ids) - len(kept)),
        )
    kept = kept[np.lexsort((spots.grid_rc[kept, 1], spots.grid_rc[kept, 0]))]
    rows = [row_of[spots.spot_ids[i]] for i in kept]
    genes, counts = merge_repeated_genes(table.genes, table.counts.tocsr()[rows])
    return Joined(genes, counts, spots.grid_rc[kept], spots.level0_xy[kept])


def merge_repeated_genes(genes: Sequence[str], counts: Any) -> tuple[tuple[str, ...], Any]:
    """Add up the columns of one symbol, as where two Ensembl genes share it; order is kept."""
    from scipy.sparse import coo_array, csr_array

    first: dict[str, int] = {}
    target = np.array([first.setdefault(gene, len(first)) for gene in genes], np.int64)
    if len(first) == len(genes):
        return tuple(genes), csr_array(counts)
    entries = coo_array(counts)
    shape = (entries.shape[0], len(first))
    merged = coo_array((entries.data, (entries.row, target[entries.col])), shape)
    return tuple(first), merged.tocsr()
