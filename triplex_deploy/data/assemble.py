"""Join a table of counts and a table of spots to a ``Section``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.names import require_named, require_unique
from triplex_deploy.data.section import Section
from triplex_deploy.spots.scale import KnownArray

logger = logging.getLogger(__name__)

MAX_ALONE: Final = 0.1
"""Largest share of rows of counts without a position that causes no warning."""


@dataclass(frozen=True, eq=False)
class CountTable:
    """Holds the raw counts of a file."""

    spot_ids: tuple[str, ...]
    """Names of the N spots."""
    genes: tuple[str, ...]
    """The G gene symbols; a symbol may repeat."""
    counts: Any
    """Counts (N, G), a SciPy sparse array."""


@dataclass(frozen=True, eq=False)
class SpotTable:
    """Holds the positions of the spots of a file."""

    spot_ids: tuple[str, ...]
    """Names of the M spots."""
    grid_rc: NDArray[np.int64]
    """Array coordinates (M, 2): row, column."""
    level0_xy: NDArray[np.float64]
    """Spot centers (M, 2): x, y in level-0 pixels."""


@dataclass(frozen=True)
class SectionMetadata:
    """Holds what is known of a section besides its arrays."""

    name: str
    """Name of the section."""
    patient: str
    """Patient that the section is of."""
    slide_path: Path
    """Image of the section."""
    slide_mpp: float
    """Microns per level-0 pixel."""
    is_hexagonal: bool
    """True for a Visium lattice."""
    is_mpp_given: bool = False
    """True if the user gave ``slide_mpp``."""
    array: KnownArray | None = None
    """Array of the spots, if the layout says which it is."""


@dataclass(frozen=True, eq=False)
class Joined:
    """Holds the counts and positions of the same spots."""

    spot_ids: tuple[str, ...]
    """Names of the N spots."""
    genes: tuple[str, ...]
    """The G gene symbols, each once."""
    counts: Any
    """Counts (N, G), a SciPy sparse array."""
    grid_rc: NDArray[np.int64]
    """Array coordinates (N, 2): row, column."""
    level0_xy: NDArray[np.float64]
    """Spot centers (N, 2): x, y in level-0 pixels."""


def assemble_section(metadata: SectionMetadata, table: CountTable, spots: SpotTable) -> Section:
    """Return a section of the spots that have both counts and a position.

    Raises:
        DatasetError: A name is missing or listed twice, or the section is not valid.
    """
    joined = join_tables(metadata.name, table, spots)
    return Section(
        name=metadata.name,
        patient=metadata.patient,
        slide_path=metadata.slide_path,
        slide_mpp=metadata.slide_mpp,
        counts=joined.counts,
        genes=joined.genes,
        grid_rc=joined.grid_rc,
        level0_xy=joined.level0_xy,
        is_hexagonal=metadata.is_hexagonal,
        is_mpp_given=metadata.is_mpp_given,
        array=metadata.array,
    )


def join_tables(name: str, table: CountTable, spots: SpotTable) -> Joined:
    """Join counts and positions by the names of spots.

    Args:
        name: Name of the section, with which messages begin.
        table: Counts.
        spots: Positions.

    Returns:
        The spots that have both, ordered by (row, column), with each gene symbol once.

    Raises:
        DatasetError: A spot or a gene has no name, or a spot is listed twice.
    """
    require_unique(name, "spot with counts", table.spot_ids)
    require_unique(name, "spot with a position", spots.spot_ids)
    require_named(name, "gene", table.genes)
    row_of = {spot_id: row for row, spot_id in enumerate(table.spot_ids)}
    kept = np.array([i for i, spot_id in enumerate(spots.spot_ids) if spot_id in row_of], np.int64)
    dropped = len(spots.spot_ids) - len(kept)
    alone = len(table.spot_ids) - len(kept)
    if dropped or alone:
        # Space Ranger lists every position of the array, so each row of counts should have one.
        much = alone > MAX_ALONE * len(table.spot_ids)
        logger.log(
            logging.WARNING if much else logging.INFO,
            "%s: %d spots have counts and a position; %d positions have no counts, and %d rows of "
            "counts have no position",
            name,
            len(kept),
            dropped,
            alone,
        )
    kept = kept[np.lexsort((spots.grid_rc[kept, 1], spots.grid_rc[kept, 0]))]
    rows = [row_of[spots.spot_ids[i]] for i in kept]
    genes, counts = merge_repeated_genes(table.genes, table.counts.tocsr()[rows])
    ids = tuple(spots.spot_ids[i] for i in kept)
    return Joined(ids, genes, counts, spots.grid_rc[kept], spots.level0_xy[kept])


def merge_repeated_genes(genes: Sequence[str], counts: Any) -> tuple[tuple[str, ...], Any]:
    """Return each symbol once, in order of first use, and counts whose repeated columns are summed.

    Two Ensembl genes can have the same symbol.
    """
    from scipy.sparse import coo_array, csr_array

    first: dict[str, int] = {}
    target = np.array([first.setdefault(gene, len(first)) for gene in genes], np.int64)
    if len(first) == len(genes):
        return tuple(genes), csr_array(counts)
    entries = coo_array(counts)
    shape = (entries.shape[0], len(first))
    merged = coo_array((entries.data, (entries.row, target[entries.col])), shape)
    return tuple(first), merged.tocsr()
