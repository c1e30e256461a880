"""Read predictions from h5ad files, and write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from triplex_deploy.errors import ContractError, OutputError
from triplex_deploy.files.damaged import damage_as
from triplex_deploy.files.hdf5 import read_h5ad as read_checked_h5ad
from triplex_deploy.outputs.h5ad_parts import SCHEMA
from triplex_deploy.outputs.held_out import read_held_out
from triplex_deploy.outputs.prediction import (
    FAMILIARITY_COLUMN,
    FEATURES_KEY,
    SPREAD_LAYER,
    Prediction,
)

if TYPE_CHECKING:
    from anndata import AnnData

REMEDY: Final = "run triplex-deploy predict again"
"""End of messages about files that cannot be used."""


def write_h5ad(prediction: Prediction, path: str | Path) -> None:
    """Write a prediction as an h5ad file of scanpy and squidpy, atomically.

    Args:
        prediction: What to write.
        path: File to write; an existing file is replaced.

    Raises:
        OutputError: If the file cannot be written.
    """
    prediction.write_h5ad(path)


def read_prediction(path: str | Path) -> Prediction:
    """Read a prediction from the h5ad file that ``predict`` or ``write_h5ad`` wrote.

    Files of all versions from 0.1.0 on are read.

    Args:
        path: The h5ad file.

    Returns:
        The prediction with the expression, coordinates and metadata that were written. The tissue
        overlay is at most 800 pixels a side.

    Raises:
        OutputError: If the file is missing, damaged, altered, of a newer version, or not a
            prediction of this package.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "no such file"
        raise OutputError(f"{path}: {what}; give an .h5ad written by triplex-deploy predict")
    table = read_checked_h5ad(path, OutputError, "prediction (.h5ad)", REMEDY)
    altered = f"{path}: altered since it was written"
    with damage_as(OutputError, altered, REMEDY):
        _require_schema(table, path)
        try:
            return _from_anndata(table)
        except ContractError as error:
            raise OutputError(f"{altered}: {error}; {REMEDY}") from error


def _require_schema(table: AnnData, path: Path) -> None:
    metadata = table.uns.get("triplex", {})
    schema = metadata.get("schema", "") if isinstance(metadata, dict) else ""
    name, _, version = str(schema).partition("/")
    if name != SCHEMA.partition("/")[0]:
        raise OutputError(
            f"{path}: not a prediction of this package; "
            "give an .h5ad written by triplex-deploy predict"
        )
    if schema != SCHEMA:
        raise OutputError(
            f"{path}: prediction of schema {version}, newer than this version reads; "
            "upgrade triplex-deploy"
        )


def _from_anndata(table: AnnData) -> Prediction:
    metadata = table.uns["triplex"]
    geometry = metadata["geometry"]
    name = str(geometry["slide_name"])
    library = table.uns["spatial"][name]
    overlay, spread = metadata.get("tissue_overlay"), table.layers.get(SPREAD_LAYER)
    familiar, features = table.obs.get(FAMILIARITY_COLUMN), table.obsm.get(FEATURES_KEY)
    run = json.loads(metadata["run_json"])
    if not isinstance(run, dict):
        raise ValueError("run_json holds no object")
    return Prediction(
        slide_name=name,
        expression=np.ascontiguousarray(table.X, np.float32),
        genes=tuple(map(str, table.var_names)),
        level0_xy=np.ascontiguousarray(table.obsm["spatial"], np.float64),
        grid_rc=np.stack([table.obs["array_row"], table.obs["array_col"]], axis=1).astype(np.int64),
        slide_size_wh=(int(geometry["slide_width_px"]), int(geometry["slide_height_px"])),
        slide_mpp=float(geometry["slide_mpp"]),
        spot_diameter_px=float(library["scalefactors"]["spot_diameter_fullres"]),
        thumbnail=np.ascontiguousarray(library["images"]["hires"]),
        run=run,
        tissue_overlay=None if overlay is None else np.ascontiguousarray(overlay),
        barcodes=tuple(map(str, table.obs.get("barcode", ()))),
        spread=None if spread is None else np.ascontiguousarray(spread, np.float32),
        familiarity=None if familiar is None else np.ascontiguousarray(familiar, np.float32),
        features=None if features is None else np.ascontiguousarray(features, np.float32),
        reliability=read_held_out(table.var, metadata),
    )
