"""Say for each gene how well held-out spots were predicted, and how well they can be.

How each number is measured is in docs/models.md, "Reliability by gene".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import BundleError, ContractError
from triplex_deploy.files.npz import read_npz

RELIABILITY: Final = "reliability.npz"
"""Name of the file in a bundle."""
NOT_MEASURED: Final = "not measured"
"""Text for a model without these numbers."""
SUPPORTED: Final = "supported"
"""Text for a gene whose correlation at held-out spots is above zero, whole interval."""
NOT_SUPPORTED: Final = "not supported"
"""Text for any other gene."""
COLUMNS: Final = {
    "heldout_pcc": "pcc",
    "heldout_pcc_low": "pcc_low",
    "heldout_pcc_high": "pcc_high",
    "heldout_rmse": "rmse",
    "heldout_rmse_raw": "raw_rmse",
    "pcc_ceiling": "pcc_ceiling",
}
"""Field behind each column of tables of genes."""
_COUNTS: Final = ("n_spots", "n_sections")
_MOST: Final = 2**31 - 1


@dataclass(frozen=True, eq=False)
class GeneReliability:
    """How well each of G genes was predicted at held-out spots.

    Raises:
        ContractError: The arrays do not fit together, or a value is out of range.
    """

    pcc: NDArray[np.float32]
    """(G,): correlation of predicted and measured over the spots of a section, mean over the
    sections; NaN for a gene that is constant."""
    pcc_low: NDArray[np.float32]
    """(G,): lower end of the 95 % interval of ``pcc``."""
    pcc_high: NDArray[np.float32]
    """(G,): upper end of the 95 % interval of ``pcc``."""
    rmse: NDArray[np.float32]
    """(G,): root of the mean squared error, in the units of the labels."""
    raw_rmse: NDArray[np.float32]
    """(G,): the same without calibration."""
    pcc_ceiling: NDArray[np.float32]
    """(G,): highest correlation that the noise of the counts allows; NaN if unknown."""
    n_spots: int
    """Number of held-out spots; of an ensemble, the sum over its members."""
    n_sections: int
    """Number of held-out sections; of an ensemble, the sum over its members."""

    def __post_init__(self) -> None:
        arrays = [getattr(self, name) for name in _array_names()]
        n_genes = len(self.pcc) if self.pcc.ndim == 1 else -1
        if any(array.dtype != np.float32 or array.shape != (n_genes,) for array in arrays):
            raise ContractError("reliability: the arrays do not fit together; train again")
        if not all(1 <= getattr(self, name) <= _MOST for name in _COUNTS):
            raise ContractError("reliability: a number of spots is out of range; train again")
        unknown = np.isnan(self.pcc)
        ordered = (self.pcc_low >= -1) & (self.pcc_high <= 1)
        ordered &= (self.pcc_low <= self.pcc) & (self.pcc <= self.pcc_high)
        none = np.isnan(self.pcc_low) & np.isnan(self.pcc_high)
        ceiling = np.isnan(self.pcc_ceiling) | ((self.pcc_ceiling >= 0) & (self.pcc_ceiling <= 1))
        errors = np.stack([self.rmse, self.raw_rmse])
        right = np.where(unknown, none, ordered) & ceiling
        if not (right.all() and np.isfinite(errors).all() and (errors >= 0).all()):
            raise ContractError("reliability: a value is out of range; train again")

    @property
    def n_genes(self) -> int:
        """Number of genes, G."""
        return len(self.pcc)

    @property
    def is_supported(self) -> NDArray[np.bool_]:
        """True (G,) where the whole interval of the correlation is above zero."""
        return np.nan_to_num(self.pcc_low, nan=-1) > 0

    @property
    def description(self) -> str:
        """How many spots were measured, in words."""
        sections = f"{self.n_sections} section{'s' if self.n_sections > 1 else ''}"
        return f"measured at {self.n_spots:,} held-out spots of {sections}"

    def select(self, genes: NDArray[np.int64]) -> GeneReliability:
        """Return the numbers of the genes at the positions ``genes``."""
        chosen: dict[str, Any] = {name: getattr(self, name)[genes] for name in _array_names()}
        return replace(self, **chosen)

    def without_calibration(self) -> GeneReliability:
        """Return the numbers of the model without its calibration."""
        return replace(self, rmse=self.raw_rmse)

    def columns(self) -> dict[str, NDArray[np.float32]]:
        """Return the columns (G,) of a table of genes by name, ``COLUMNS``."""
        return {column: getattr(self, name) for column, name in COLUMNS.items()}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays by name, for a file."""
        counts = {name: np.array(getattr(self, name), np.int64) for name in _COUNTS}
        return {**{name: getattr(self, name) for name in _array_names()}, **counts}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> GeneReliability:
        """Return the numbers of which ``arrays`` returned this.

        Raises:
            ContractError: An array is missing, unknown, or has another type or shape.
        """
        if set(arrays) != {field.name for field in fields(cls)}:
            raise ContractError("reliability: arrays are missing or unknown; train again")
        counts = {name: arrays[name] for name in _COUNTS}
        if any(array.dtype != np.int64 or array.shape != () for array in counts.values()):
            raise ContractError("reliability: a number of spots is no number; train again")
        values: dict[str, Any] = {name: arrays[name] for name in _array_names()}
        values |= {name: int(array) for name, array in counts.items()}
        return cls(**values)

    @classmethod
    def of_members(cls, members: Sequence[GeneReliability]) -> GeneReliability:
        """Return the numbers of an ensemble: the means over its members, of the squared errors too.

        A gene that is constant for one member is left out there.
        """
        joined: dict[str, Any] = {
            name: _mean([getattr(m, name) for m in members]) for name in _array_names()
        }
        for name in ("rmse", "raw_rmse"):
            joined[name] = np.sqrt(_mean([getattr(m, name) ** 2 for m in members]))
        counts = {name: sum(getattr(m, name) for m in members) for name in _COUNTS}
        return cls(**joined, **counts)


def read_reliability(path: Path) -> GeneReliability:
    """Read the file ``RELIABILITY`` of a bundle.

    Raises:
        BundleError: The file cannot be read, or its values are out of range.
    """
    arrays = read_npz(path, BundleError, "cannot be read", "export the bundle again")
    try:
        return GeneReliability.from_arrays(arrays)
    except ContractError as error:
        raise BundleError(f"{path}: {error}") from error


def _array_names() -> tuple[str, ...]:
    return tuple(field.name for field in fields(GeneReliability) if field.name not in _COUNTS)


def _mean(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the mean (G,) over members without NaN; NaN where all are NaN."""
    stacked = np.stack(values).astype(np.float64)
    known = ~np.isnan(stacked)
    totals = np.where(known, stacked, 0).sum(axis=0)
    mean = np.where(known.any(axis=0), totals / np.maximum(known.sum(axis=0), 1), np.nan)
    return mean.astype(np.float32)
