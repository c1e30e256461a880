"""Count the transcripts of a Xenium output by spot and gene, without holding them all.

As in the vendor's own matrix of cells, transcripts with a quality value below 20 and probes that
are no genes do not count.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.data.names import require_named
from triplex_deploy.errors import DatasetError
from triplex_deploy.files.compressed import open_unpacked
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.regular import require_regular_file

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

FILES: Final = ("transcripts.parquet", "transcripts.csv.gz", "transcripts.csv")
COLUMNS: Final = ("feature_name", "x_location", "y_location", "qv")
IS_GENE: Final = "is_gene"
"""Column of newer outputs: true for transcripts of genes."""
CONTROLS: Final = (
    "negcontrolprobe_",
    "negcontrolcodeword_",
    "blank_",
    "unassignedcodeword_",
    "deprecatedcodeword_",
    "intergenic_region_",
    "antisense_",
)
"""Beginnings, in lower case, of the names of what is no gene, for outputs without ``is_gene``."""
MIN_QV: Final = 20.0
"""Least quality value, 1 wrong in 100, of transcripts that the vendor counts."""
MAX_UM: Final = 1e6
"""Largest coordinate; no slide is a meter wide."""
MAX_GENES: Final = 100_000
"""Most names of features; panels have up to 6000."""
BATCH_ROWS: Final = 1_000_000
"""Transcripts that are read at once."""
REMEDY: Final = "copy it again"

Batches = Iterator["pd.DataFrame"]


def pool_transcripts(
    outs: Path, spot_of: Callable[[NDArray[np.float64]], NDArray[np.int64]], n_spots: int
) -> tuple[tuple[str, ...], Any]:
    """Count the transcripts of a Xenium output by spot and gene.

    Takes what ``pool_batches`` takes, with the folder of the output; points are in Xenium's
    microns.

    Raises:
        DatasetError: The file is missing or damaged, or has no transcript of a gene.
    """
    path = next((outs / name for name in FILES if (outs / name).exists()), None)
    if path is None:
        raise DatasetError(f"{outs}: none of {', '.join(FILES)}; copy one there")
    return pool_batches(path, _batches(path), spot_of, n_spots)


def pool_batches(
    path: Path,
    batches: Batches,
    spot_of: Callable[[NDArray[np.float64]], NDArray[np.int64]],
    n_spots: int,
) -> tuple[tuple[str, ...], Any]:
    """Count transcripts by spot and gene.

    Args:
        path: The file, for messages.
        batches: Tables with ``COLUMNS`` and, if known, ``is_gene``; without ``qv`` all count.
        spot_of: Returns the index (N,) of the spot of points (N, 2) in the frame of the batches; -1
            for a point in no spot.
        n_spots: Number M of spots.

    Returns:
        The G genes in the order of their names, and counts (M, G), a SciPy CSR array.

    Raises:
        DatasetError: A value is no number, or there is no transcript of a gene.
    """
    from scipy.sparse import coo_array, csr_array

    index_of: dict[str, int] = {}
    counts = csr_array((n_spots, MAX_GENES), dtype=np.int64)
    left = _LeftOut()
    for batch in batches:
        spots, genes = _of_genes(path, batch, spot_of, index_of, left)
        ones = np.ones(len(spots), np.int64)
        counts = counts + coo_array((ones, (spots, genes)), counts.shape).tocsr()
    if not index_of:
        raise DatasetError(f"{path}: no transcript of a gene; {REMEDY}")
    left.log(path)
    order = sorted(index_of)
    require_named(str(path), "gene", order)
    return tuple(order), csr_array(counts[:, [index_of[gene] for gene in order]])


class _LeftOut:
    """Counts the transcripts that are left out, by reason."""

    def __init__(self) -> None:
        self.total = self.control = self.low_quality = self.elsewhere = 0

    def log(self, path: Path) -> None:
        logger.info(
            "%s: %d transcripts; left out are %d of controls and blank codewords, %d with a "
            "quality below %g, and %d outside the spots in tissue",
            path,
            self.total,
            self.control,
            self.low_quality,
            MIN_QV,
            self.elsewhere,
        )


def _of_genes(
    path: Path,
    batch: pd.DataFrame,
    spot_of: Callable[[NDArray[np.float64]], NDArray[np.int64]],
    index_of: dict[str, int],
    left: _LeftOut,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return spot and gene of each transcript of a batch that counts; new genes are numbered."""
    codes, names = _names(batch)
    x, y = (_numbers(path, batch, name) for name in ("x_location", "y_location"))
    quality = _numbers(path, batch, "qv") if "qv" in batch else np.full(len(batch), np.inf)
    is_gene = _gene_flags(batch, names)[codes] if IS_GENE not in batch else _flags(batch)
    is_good = quality >= MIN_QV
    for code in np.unique(codes[is_gene]):
        index_of.setdefault(names[code], len(index_of))
    if len(index_of) > MAX_GENES:
        raise DatasetError(f"{path}: more than {MAX_GENES:,} names of genes; {REMEDY}")
    spots = spot_of(np.stack([x, y], axis=1))
    left.total += len(batch)
    left.control += int((~is_gene).sum())
    left.low_quality += int((is_gene & ~is_good).sum())
    left.elsewhere += int((is_gene & is_good & (spots < 0)).sum())
    kept = is_gene & is_good & (spots >= 0)
    gene_of = np.array([index_of.get(name, -1) for name in names], np.int64)
    return spots[kept], gene_of[codes[kept]]


def _names(batch: pd.DataFrame) -> tuple[NDArray[np.int64], list[str]]:
    """Return the number of each feature in the list of names; the first outputs store bytes."""
    import pandas as pd

    codes, found = pd.factorize(batch["feature_name"].astype(object), use_na_sentinel=False)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in found]
    return codes.astype(np.int64), names


def _gene_flags(batch: pd.DataFrame, names: list[str]) -> NDArray[np.bool_]:
    return np.array([not name.lower().startswith(CONTROLS) for name in names], np.bool_)


def _flags(batch: pd.DataFrame) -> NDArray[np.bool_]:
    """Return ``is_gene`` as truth values; tables of text have words."""
    if batch[IS_GENE].dtype == np.bool_:
        return batch[IS_GENE].to_numpy(np.bool_)
    return np.asarray(
        batch[IS_GENE].astype(object).map(lambda value: str(value).lower() in ("true", "1"))
    ).astype(np.bool_)


def _numbers(path: Path, batch: pd.DataFrame, name: str) -> NDArray[np.float64]:
    import pandas as pd

    values = pd.to_numeric(batch[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
    if not (np.abs(values) <= MAX_UM).all():
        raise DatasetError(f"{path}: {name} of a transcript is no number of a slide; {REMEDY}")
    return values


def _batches(path: Path) -> Batches:
    require_regular_file(path, DatasetError, "table of transcripts")
    reading = _of_parquet(path) if path.suffix == ".parquet" else _of_text(path)
    while True:
        with damage_as(DatasetError, f"{path}: not a readable table of transcripts", REMEDY):
            batch = next(reading, None)
        if batch is None:
            return
        missing = [name for name in COLUMNS if name not in batch]
        if missing:
            raise DatasetError(f"{path}: no column {', '.join(missing)}; {REMEDY}")
        yield batch


def _of_parquet(path: Path) -> Batches:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        wanted = [name for name in (*COLUMNS, IS_GENE) if name in file.schema_arrow.names]
        for batch in file.iter_batches(BATCH_ROWS, columns=wanted):
            yield batch.to_pandas()


def _of_text(path: Path) -> Batches:
    import pandas as pd

    with (
        open_unpacked(path) as stream,
        pd.read_csv(
            stream,
            usecols=lambda name: name in (*COLUMNS, IS_GENE),
            chunksize=BATCH_ROWS,
            dtype={"feature_name": str},
            keep_default_na=False,
        ) as batches,
    ):
        yield from batches
