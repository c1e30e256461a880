"""Predictions as AnnData files that scanpy and squidpy draw without further ado."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.errors import ContractError, OutputError
from triplex_deploy.files.atomic import atomic_path
from triplex_deploy.files.strict_json import to_strict_json as to_strict_json
from triplex_deploy.outputs.prediction import Prediction

if TYPE_CHECKING:
    from anndata import AnnData

SCHEMA: Final = "triplex-prediction/1"
LOWRES_MAX_PX: Final = 600
OVERLAY_MAX_PX: Final = 800
"""Longest side of the tissue picture that is kept, so that a report can be made again."""
FIDUCIAL_PER_SPOT: Final = 105 / 65
"""Space Ranger's ratio of fiducial to spot diameter; a predicted slide has no fiducials."""


def write_h5ad(prediction: Prediction, path: str | Path) -> None:
    """Write ``prediction`` to ``path``, atomically; ``OutputError`` on failure."""
    with atomic_path(path) as temporary, io.BytesIO() as file:
        _write_hdf5(to_anndata(prediction), file)
        with temporary.open("wb") as stream:
            stream.write(file.getbuffer())


def read_h5ad(path: str | Path) -> Prediction:
    """Read back what ``write_h5ad`` wrote; any other file raises ``OutputError``."""
    import anndata

    path = Path(path)
    if not path.is_file():
        raise OutputError(f"{path}: no such file; give an .h5ad written by triplex-deploy predict")
    try:
        table = anndata.read_h5ad(path)
    except (OSError, KeyError, ValueError) as error:
        raise OutputError(
            f"{path}: cannot be read as h5ad ({_first_line(error)}); "
            "run triplex-deploy predict again"
        ) from error
    _require_schema(table, path)
    try:
        return _from_anndata(table)
    except (KeyError, TypeError, ValueError, ContractError) as error:
        raise OutputError(
            f"{path}: altered since it was written ({_first_line(error)}); "
            "run triplex-deploy predict again"
        ) from error


def to_anndata(prediction: Prediction) -> AnnData:
    """The prediction in memory as ``write_h5ad`` writes it."""
    import anndata
    import pandas as pd

    row, column = prediction.grid_rc.T
    x, y = prediction.level0_xy.T
    obs = pd.DataFrame(
        {
            "in_tissue": np.ones(prediction.n_spots, np.int64),
            "array_row": row,
            "array_col": column,
            "pxl_row_in_fullres": y,
            "pxl_col_in_fullres": x,
        },
        index=pd.Index(prediction.spot_names, dtype=object),
    )
    if prediction.barcodes:
        obs["barcode"] = np.array(prediction.barcodes, object)
    return anndata.AnnData(
        X=prediction.expression.copy(),
        obs=obs,
        var=pd.DataFrame(index=pd.Index(prediction.genes, dtype=object)),
        obsm={"spatial": prediction.level0_xy.copy()},
        uns={
            "spatial": {prediction.slide_name: _spatial(prediction)},
            "triplex": _run_facts(prediction),
        },
    )


def _write_hdf5(table: AnnData, file: io.BytesIO) -> None:
    """Build the file in memory: HDF5 cannot be left in order on a disk that is full."""
    import anndata.io
    import h5py

    with h5py.File(file, "w") as root:
        anndata.io.write_elem(
            root, "/", table, dataset_kwargs={"compression": "gzip", "compression_opts": 1}
        )
        if table.raw is None:
            root.pop("raw", None)  # an empty one, which older versions of anndata cannot read


def _spatial(prediction: Prediction) -> dict[str, Any]:
    """Images and scale factors under the names Space Ranger gave them."""
    hires = prediction.thumbnail
    lowres = _shrink(hires, LOWRES_MAX_PX)
    longest_px = max(prediction.slide_size_wh)
    return {
        "images": {"hires": hires, "lowres": lowres},
        "scalefactors": {
            "tissue_hires_scalef": max(hires.shape[:2]) / longest_px,
            "tissue_lowres_scalef": max(lowres.shape[:2]) / longest_px,
            "spot_diameter_fullres": float(prediction.spot_diameter_px),
            "fiducial_diameter_fullres": prediction.spot_diameter_px * FIDUCIAL_PER_SPOT,
        },
    }


def _run_facts(prediction: Prediction) -> dict[str, Any]:
    """Scalars and dicts of scalars as plain values; ``run_json`` alone has lists and nulls too."""
    width, height = prediction.slide_size_wh
    facts = _scalars(prediction.run)
    facts["schema"] = SCHEMA
    facts["run_json"] = to_strict_json(prediction.run)
    facts["geometry"] = {
        "slide_name": prediction.slide_name,
        "slide_width_px": int(width),
        "slide_height_px": int(height),
        "slide_mpp": float(prediction.slide_mpp),
    }
    if prediction.tissue_overlay is not None:
        facts["tissue_overlay"] = _shrink(prediction.tissue_overlay, OVERLAY_MAX_PX)
    return facts


def _scalars(values: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for key, value in values.items():
        if "/" in str(key):  # HDF5 would read the name as a path
            continue
        if isinstance(value, dict):
            plain[str(key)] = _scalars(value)
        elif isinstance(value, str | bool | int | float | np.generic):
            plain[str(key)] = value
    return plain


def _require_schema(table: AnnData, path: Path) -> None:
    facts = table.uns.get("triplex", {})
    schema = facts.get("schema", "") if isinstance(facts, dict) else ""
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
    facts = table.uns["triplex"]
    geometry = facts["geometry"]
    name = str(geometry["slide_name"])
    library = table.uns["spatial"][name]
    overlay = facts.get("tissue_overlay")
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
        run=json.loads(facts["run_json"]),
        tissue_overlay=None if overlay is None else np.ascontiguousarray(overlay),
        barcodes=tuple(map(str, table.obs.get("barcode", ()))),
    )


def _shrink(image: NDArray[np.uint8], max_px: int) -> NDArray[np.uint8]:
    """Area-average ``image`` (h, w, 3) so that its longest side is at most ``max_px``."""
    from PIL import Image

    height, width = image.shape[:2]
    factor = max_px / max(height, width)
    if factor >= 1:
        return image
    size_wh = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(image).resize(size_wh, Image.Resampling.BOX))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
