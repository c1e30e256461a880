"""The spots of an AnnData file, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from triplex_deploy.errors import SpotsError
from triplex_deploy.spots.spot_diameter import named_diameter

if TYPE_CHECKING:
    import pandas as pd

OBS = ("array_row", "array_col", "in_tissue", "barcode")


def read_h5ad_table(path: Path) -> tuple[pd.DataFrame, float | None]:
    """``obsm["spatial"]`` (x, y) as pixel_x and pixel_y, with the array columns of ``obs`` if any.

    Barcodes are ``obs["barcode"]``, else the names of the observations. Second comes the spot
    diameter in level-0 pixels, if the file has one library that names it. The expression matrix is
    not loaded. Raises ``SpotsError``.
    """
    import anndata
    import pandas as pd

    if not path.exists():
        raise SpotsError(f"{path}: no such spots file; check the path")
    try:
        backed = anndata.read_h5ad(path, backed="r")
        obs, uns, spatial = backed.obs, backed.uns, backed.obsm.get("spatial")
        backed.file.close()
    except (OSError, KeyError, ValueError) as error:
        raise SpotsError(f"{path}: not a readable h5ad: {error}; write it again") from error
    if spatial is None or np.ndim(spatial) != 2 or np.shape(spatial)[1] < 2:
        raise SpotsError(f'{path}: no (x, y) in obsm["spatial"]; add level-0 pixel centres')
    xy = np.asarray(spatial)
    table = pd.DataFrame({"pixel_x": xy[:, 0], "pixel_y": xy[:, 1], "barcode": obs.index})
    for name in OBS:
        if name in obs:
            table[name] = obs[name].to_numpy()
    return table, _diameter(uns.get("spatial"))


def _diameter(libraries: object) -> float | None:
    if not isinstance(libraries, dict) or len(libraries) != 1:
        return None
    library = next(iter(libraries.values()))
    return named_diameter(library.get("scalefactors")) if isinstance(library, dict) else None
