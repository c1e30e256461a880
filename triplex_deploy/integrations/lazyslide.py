"""Predict the tiles of a slide that LazySlide has opened and tiled.

    import lazyslide as zs
    from wsidata import open_wsi
    from triplex_deploy.integrations.lazyslide import predict_tiles

    wsi = open_wsi("slide.svs")
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, 224, mpp=0.5)
    predict_tiles(wsi, "bundle/")
    zs.pl.tiles(wsi, feature_key="triplex", color="GNAS")

A model of this package needs more than the pixels or features of a tile: its surroundings, and all
other tiles. So the slide is read by this package, and LazySlide gives the places.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from triplex_deploy.contract import TILE_PX
from triplex_deploy.errors import ConfigError
from triplex_deploy.pipeline.options import PredictOptions
from triplex_deploy.pipeline.predict import predict_slide
from triplex_deploy.progress import Progress
from triplex_deploy.runtime.model import Model, load_bundle
from triplex_deploy.spots import Spots
from triplex_deploy.spots.lattice import infer_lattice

if TYPE_CHECKING:
    from triplex_deploy.outputs.prediction import Prediction

KEY: Final = "triplex"
"""Name of the features, to which LazySlide adds the name of the tiles."""
MAX_SIZE_DIFFERENCE: Final = 0.02
"""Largest relative difference of the sizes of tiles; scanners give rounded scales."""


def predict_tiles(
    wsi: Any,
    bundle: str | Path | Model,
    tile_key: str = "tiles",
    key_added: str = KEY,
    options: PredictOptions | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> Prediction:
    """Predict the expression of tiles, and add it to the slide as a table of features.

    Args:
        wsi: The ``WSIData`` of the slide, with tiles of the model's size.
        bundle: Folder of the bundle, or the opened bundle.
        tile_key: Name of the tiles in ``wsi.shapes``.
        key_added: The table is ``wsi.tables[f"{key_added}_{tile_key}"]``, as LazySlide expects.
        options: Choices of the prediction. Its ``spots`` are replaced by the tiles.
        device: Where to run a bundle that is given as a folder.
        progress: Receives the progress; nothing is shown if None.

    Returns:
        The prediction, with a spot for each tile, in their order.

    Raises:
        ConfigError: There are no such tiles, or they are not of the model's size.
        SpotsError: The tiles are on no lattice.
        SlideError: The slide cannot be read.
    """
    if isinstance(bundle, Model):
        return _predict(wsi, bundle, tile_key, key_added, options or PredictOptions(), progress)
    with load_bundle(bundle).open(device=device) as model:
        return _predict(wsi, model, tile_key, key_added, options or PredictOptions(), progress)


def _predict(
    wsi: Any,
    model: Model,
    tile_key: str,
    key_added: str,
    options: PredictOptions,
    progress: Progress | None,
) -> Prediction:
    if tile_key not in wsi.shapes or not len(wsi.shapes[tile_key]):
        raise ConfigError(f"{tile_key}: no such tiles; run zs.pp.tile_tissues first")
    corners = wsi.shapes[tile_key].bounds[["minx", "miny", "maxx", "maxy"]].to_numpy(np.float64)
    mpp = options.mpp or wsi.properties.mpp
    _require_size(corners, model.bundle.manifest.tile_mpp, mpp, tile_key)
    centers = (corners[:, :2] + corners[:, 2:]) / 2
    side = float(np.median(corners[:, 2:] - corners[:, :2]))
    spots = Spots(centers, infer_lattice(centers).grid_rc, "file", side)
    chosen = replace(options, spots=spots, mpp=mpp)
    prediction = predict_slide(Path(wsi.reader.file), model, chosen, progress)
    wsi.tables[f"{key_added}_{tile_key}"] = _table(wsi, tile_key, prediction)
    return prediction


def _require_size(
    corners: NDArray[np.float64], tile_mpp: float, mpp: float | None, tile_key: str
) -> None:
    """Raise ``ConfigError`` unless tiles cover what a tile of the model covers."""
    if not mpp:
        raise ConfigError("the slide has no microns per pixel; pass PredictOptions(mpp=...)")
    side_um = (corners[:, 2:] - corners[:, :2]) * mpp
    wanted_um = TILE_PX * tile_mpp
    if (abs(side_um / wanted_um - 1) > MAX_SIZE_DIFFERENCE).any():
        raise ConfigError(
            f"{tile_key}: tiles of {np.median(side_um):.1f} um, and the model's are "
            f"{wanted_um:.1f} um; run zs.pp.tile_tissues(wsi, {TILE_PX}, mpp={tile_mpp:g})"
        )


def _table(wsi: Any, tile_key: str, prediction: Prediction) -> Any:
    """Return the table that LazySlide keeps features in: a row for each tile, by ``tile_id``."""
    import pandas as pd
    from spatialdata.models import TableModel

    tiles = wsi.shapes[tile_key]
    has_ids = "tile_id" in tiles.columns
    ids = tiles["tile_id"].to_numpy() if has_ids else np.arange(len(tiles))
    table = prediction.to_anndata()
    table.obs.index = pd.Index(ids.astype(str))
    table.obs["tile_id"] = ids
    table.obs["library_id"] = pd.Categorical([tile_key] * len(tiles))
    return TableModel.parse(table, region=tile_key, region_key="library_id", instance_key="tile_id")
