"""What a prediction shows in a notebook."""

import builtins
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from triplex_deploy.errors import ConfigError, OutputError
from triplex_deploy.outputs import Prediction
from triplex_deploy.outputs.spot_picture import draw_gene


@pytest.fixture
def pyplot() -> Iterator[Any]:
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    from matplotlib import pyplot

    yield pyplot
    pyplot.close("all")


def test_plot_draws_a_spot_for_each_value_in_units(prediction: Prediction, pyplot: Any) -> None:
    transform = {"library": "none", "log": "ln"}
    labeled = replace(prediction, run={**prediction.run, "label_transform": transform})
    axes = labeled.plot("FASN")
    (drawn,) = axes.collections
    np.testing.assert_array_equal(drawn.get_array(), prediction.expression[:, 1])
    assert len(drawn.get_paths()) == 30
    x, y = np.asarray(drawn.get_paths()[0].vertices).mean(axis=0)
    assert x < prediction.slide_size_wh[0] / 2
    assert y < prediction.slide_size_wh[1] / 2
    assert axes.get_title() == "FASN"
    assert axes.figure.axes[1].get_ylabel() == "ln(1 + counts)"
    low, high = drawn.get_clim()
    assert low < np.quantile(prediction.expression[:, 1], 0.1)
    assert high > np.quantile(prediction.expression[:, 1], 0.9)


def test_plot_takes_axes_and_leaves_missing_values_out(prediction: Prediction, pyplot: Any) -> None:
    expression = prediction.expression.copy()
    expression[3, 0] = np.nan
    round_spots = replace(prediction, expression=expression, run={"layout": "visium"})
    _, (_, right) = pyplot.subplots(1, 2)
    assert round_spots.plot("GNAS", right, cmap="magma", alpha=0.5) is right
    drawn = right.collections[0].get_array()
    assert drawn is not None
    assert np.ma.getmaskarray(drawn).sum() == 1


def test_plot_of_an_unknown_gene_is_an_error(prediction: Prediction) -> None:
    with pytest.raises(ConfigError, match="did you mean FASN"):
        prediction.plot("FASM")


@pytest.mark.parametrize(
    ("call", "library", "extra"),
    [
        (lambda prediction: prediction.plot("GNAS"), "matplotlib", "plots"),
        (lambda prediction: prediction.to_spatialdata(), "spatialdata", "files"),
    ],
)
def test_a_missing_library_is_named(
    prediction: Prediction, monkeypatch: pytest.MonkeyPatch, call: Any, library: str, extra: str
) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name.split(".")[0] in (library, "geopandas"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=library)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(OutputError, match=rf"{library} is not installed; run `.*\[{extra}\]"):
        call(prediction)


def test_notebook_shows_the_strongest_pattern_and_escapes_names(prediction: Prediction) -> None:
    html = replace(prediction, slide_name="<b>name<b>")._repr_html_()
    assert "&lt;b&gt;name&lt;b&gt;" in html
    assert "GNAS, the strongest pattern" in html
    assert "data:image/jpeg;base64," in html
    assert len(html) < 60_000
    assert "caution" not in html
    warned = replace(prediction, run={"bundle_note": "Demo <weights>"})._repr_html_()
    assert "caution</th><td style='text-align:left'>Demo &lt;weights&gt;</td>" in warned


def test_notebook_shows_a_prediction_without_spots(prediction: Prediction) -> None:
    empty = replace(
        prediction,
        expression=prediction.expression[:0],
        level0_xy=prediction.level0_xy[:0],
        grid_rc=prediction.grid_rc[:0],
    )
    assert "<td style='text-align:left'>0</td>" in empty._repr_html_()


def test_picture_has_the_colors_of_both_ends(prediction: Prediction) -> None:
    values = np.zeros_like(prediction.expression)
    values[:15, 0] = 1
    drawn = draw_gene(replace(prediction, expression=values), 0, prediction.thumbnail)
    step = prediction.slide_size_wh[0] / prediction.thumbnail.shape[1]
    x, y = (prediction.level0_xy[[0, 29]] / step).astype(int).T
    high, low = drawn[y, x].tolist()
    assert high == [253, 231, 37]  # viridis
    assert low == [68, 1, 84]
    assert (prediction.thumbnail != drawn).any()
