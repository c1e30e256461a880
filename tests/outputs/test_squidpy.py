"""squidpy on a prediction's h5ad, as its reader would use it."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.moran import morans_i

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what the library and its dependencies say on import
    import squidpy


@pytest.fixture
def table(prediction: Prediction, tmp_path: Path):
    import anndata

    prediction.write_h5ad(tmp_path / "a.h5ad")
    return anndata.read_h5ad(tmp_path / "a.h5ad")


@pytest.mark.filterwarnings("ignore:The set_bad function:PendingDeprecationWarning")
def test_spatial_scatter_draws_a_gene_on_the_picture(table, prediction: Prediction) -> None:
    import matplotlib as mpl
    from matplotlib import pyplot as plt

    mpl.use("Agg")
    axes = squidpy.pl.spatial_scatter(table, color="GNAS", return_ax=True)
    try:
        assert axes.get_images()[0].get_array().shape == (600, 800, 3)
        drawn = np.sort(np.asarray(axes.collections[0].get_array()))
        np.testing.assert_allclose(drawn, np.sort(prediction.expression[:, 0]))
    finally:
        plt.close("all")


@pytest.mark.filterwarnings("ignore:Calling `spatial_neighbors` is deprecated:FutureWarning")
def test_neighbors_and_morans_i_are_ours(table, prediction: Prediction) -> None:
    squidpy.gr.spatial_neighbors(table, coord_type="grid", n_neighs=4)
    graph = table.obsp["spatial_connectivities"]
    assert graph.nnz == 2 * (5 * 5 + 4 * 6)  # both ways between the 5 x 6 spots side by side
    squidpy.gr.spatial_autocorr(
        table, mode="moran", genes=["GNAS", "FASN"], transformation=False, show_progress_bar=False
    )
    theirs = table.uns["moranI"].loc[["GNAS", "FASN"], "I"]
    ours = morans_i(prediction.expression, prediction.grid_rc)[:2]
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
