"""Tiles of LazySlide are predicted in place; a stand-in has what the adapter uses of its slides."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

from tests.pipeline.fake_model import TILE_MPP, fake_config, fake_model
from triplex_deploy import PredictOptions, predict_slide
from triplex_deploy.demo.slide import synthesize_slide
from triplex_deploy.errors import ConfigError
from triplex_deploy.integrations.lazyslide import predict_tiles
from triplex_deploy.spots import Spots

SIDE = 224
PLACES = np.array([(2, 1), (1, 1), (1, 2), (2, 2), (3, 2), (1, 3), (2, 3)])
"""Columns and rows of the tiles, in no order."""


@pytest.fixture(scope="module")
def slide_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "tissue.tif"
    synthesize_slide(path, 1200, 1200, TILE_MPP, seed=3)
    return path


def slide_with_tiles(path: Path, side: int = SIDE, **columns: Any) -> SimpleNamespace:
    """What ``wsidata.open_wsi`` returns, as far as it is used."""
    corners = PLACES * SIDE + 30
    boxes = [shapely.box(x, y, x + side, y + side) for x, y in corners.tolist()]
    tiles = geopandas.GeoDataFrame(columns, geometry=boxes)
    reader, properties = SimpleNamespace(file=str(path)), SimpleNamespace(mpp=TILE_MPP)
    return SimpleNamespace(shapes={"tiles": tiles}, tables={}, reader=reader, properties=properties)


def test_tiles_are_predicted_as_spots_at_their_centers(slide_path: Path) -> None:
    wsi = slide_with_tiles(slide_path, tile_id=np.arange(7) + 40)
    model = fake_model(fake_config())
    found = predict_tiles(wsi, model)
    centers = PLACES * SIDE + 30 + SIDE / 2
    spots = Spots(centers, PLACES[:, ::-1] - PLACES.min(0)[::-1], "file", float(SIDE))
    wanted = predict_slide(slide_path, model, PredictOptions(spots=spots))
    np.testing.assert_array_equal(found.expression, wanted.expression)
    table = wsi.tables["triplex_tiles"]
    np.testing.assert_array_equal(table.X, wanted.expression)
    assert list(table.var_names) == list(wanted.genes)
    assert list(table.obs["tile_id"]) == list(range(40, 47))
    assert list(table.obs_names) == [str(number) for number in range(40, 47)]
    assert table.uns["spatialdata_attrs"]["region"] == "tiles"


def test_name_of_the_table_and_options_can_be_chosen(slide_path: Path) -> None:
    wsi = slide_with_tiles(slide_path)
    options = PredictOptions(genes=("gene1",))
    predict_tiles(wsi, fake_model(fake_config()), key_added="mine", options=options)
    assert list(wsi.tables) == ["mine_tiles"]
    table = wsi.tables["mine_tiles"]
    assert (list(table.var_names), list(table.obs["tile_id"])) == (["gene1"], list(range(7)))


def test_tiles_of_another_size_are_refused(slide_path: Path) -> None:
    wsi = slide_with_tiles(slide_path, side=300)
    with pytest.raises(ConfigError, match=r"tile_tissues\(wsi, 224, mpp=0\.5\)"):
        predict_tiles(wsi, fake_model(fake_config()))
    assert not wsi.tables


def test_slide_without_tiles_or_scale_is_refused(slide_path: Path) -> None:
    wsi = slide_with_tiles(slide_path)
    with pytest.raises(ConfigError, match="other: no such tiles"):
        predict_tiles(wsi, fake_model(fake_config()), "other")
    wsi.properties.mpp = None
    with pytest.raises(ConfigError, match="no microns per pixel"):
        predict_tiles(wsi, fake_model(fake_config()))


@pytest.mark.lengthy
def test_lazyslide_itself_makes_tiles_that_are_predicted(slide_path: Path) -> None:
    zs = pytest.importorskip("lazyslide", reason="LazySlide is absent: pip install lazyslide")
    from wsidata import open_wsi

    wsi = open_wsi(str(slide_path))
    zs.pp.find_tissues(wsi)
    zs.pp.tile_tissues(wsi, SIDE, mpp=TILE_MPP)
    found = predict_tiles(wsi, fake_model(fake_config()), options=PredictOptions(mpp=TILE_MPP))
    assert found.n_spots == len(wsi.shapes["tiles"]) == wsi.tables["triplex_tiles"].n_obs
