import numpy as np
import pytest

from triplex_deploy.outputs.colormaps import SCALES, color_table


@pytest.mark.parametrize("name", SCALES)
def test_lightness_rises_at_every_step(name: str) -> None:
    table = color_table(name).astype(float)
    luminance = table @ [0.2126, 0.7152, 0.0722]
    assert table.shape == (256, 3)
    assert (np.diff(luminance[::8]) > 0).all()


@pytest.mark.parametrize("name", ["viridis", "magma"])
def test_as_matplotlib_draws_it(name: str) -> None:
    mpl = pytest.importorskip("matplotlib")
    known = np.rint(mpl.colormaps[name](np.arange(256))[:, :3] * 255)
    assert np.abs(color_table(name).astype(float) - known).max() <= 1
