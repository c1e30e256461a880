"""Write the reliability of genes into tables and metadata, and read it back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.reliability import (
    COLUMNS,
    NOT_MEASURED,
    NOT_SUPPORTED,
    SUPPORTED,
    GeneReliability,
)

if TYPE_CHECKING:
    from pandas import DataFrame

HELD_OUT: Final = "heldout"
"""Name of the entry of metadata, and of the column of tables that says it in words."""


def held_out_columns(reliability: GeneReliability | None) -> dict[str, NDArray[Any]]:
    """Return columns (G,) of ``var`` by name, with ``heldout`` in words; none if not measured."""
    if reliability is None:
        return {}
    numbers = {name: values.copy() for name, values in reliability.columns().items()}
    return {**numbers, HELD_OUT: held_out_words(reliability, reliability.n_genes)}


def held_out_words(reliability: GeneReliability | None, n_genes: int) -> NDArray[np.object_]:
    """Return for each gene ``supported``, ``not supported`` or ``not measured``, (G,)."""
    if reliability is None:
        return np.full(n_genes, NOT_MEASURED, object)
    words = np.full(n_genes, NOT_SUPPORTED, object)
    words[reliability.is_supported] = SUPPORTED
    return words


def held_out_entry(reliability: GeneReliability | None) -> dict[str, Any]:
    """Return the numbers of held-out spots and sections, or that nothing was measured."""
    if reliability is None:
        return {"measured": False}
    return {
        "measured": True,
        "n_spots": reliability.n_spots,
        "n_sections": reliability.n_sections,
    }


def held_out_json(reliability: GeneReliability | None) -> dict[str, Any]:
    """Return entry and columns as JSON values, None for NaN, in the order of the genes."""
    columns = {} if reliability is None else reliability.columns()
    return {
        **held_out_entry(reliability),
        **{name: json_numbers(values) for name, values in columns.items()},
    }


def json_numbers(values: NDArray[np.float32], digits: int = 4) -> list[float | None]:
    """Return rounded numbers, None for NaN."""
    return [round(value, digits) if np.isfinite(value) else None for value in values.tolist()]


def read_held_out(var: DataFrame, metadata: Mapping[str, Any]) -> GeneReliability | None:
    """Return the reliability that ``held_out_columns`` and ``held_out_entry`` wrote.

    None for a file without, as those of version 0.1 are.

    Raises:
        ContractError: The values are out of range.
    """
    entry = metadata.get(HELD_OUT)
    if not isinstance(entry, Mapping) or not entry.get("measured") or not set(COLUMNS) <= set(var):
        return None
    numbers = {name: np.asarray(var[column], np.float32) for column, name in COLUMNS.items()}
    return GeneReliability(
        **numbers, n_spots=int(entry["n_spots"]), n_sections=int(entry["n_sections"])
    )
