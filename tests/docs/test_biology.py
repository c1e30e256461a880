"""The examples of docs/biology.md run in order, on a prediction with structure."""

import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest

from tests.docs.pages import ROOT, blocks
from triplex_deploy.outputs import Prediction

pytestmark = pytest.mark.lengthy  # scanpy and squidpy take ten seconds to import

PAGE = ROOT / "docs" / "biology.md"
SIDE = 12


def smooth_prediction() -> Prediction:
    """144 spots in rows and columns, 24 genes that change slowly over them."""
    rows, columns = np.divmod(np.arange(SIDE * SIDE), SIDE)
    waves = np.arange(1, 25) / 12
    expression = np.sin(np.outer(columns, waves)) + np.cos(np.outer(rows, waves[::-1]))
    return Prediction(
        slide_name="slide",
        expression=expression.astype(np.float32) + 3,
        genes=tuple(f"GENE{number}" for number in range(24)),
        level0_xy=np.stack([columns * 224 + 112, rows * 224 + 112], axis=1).astype(float),
        grid_rc=np.stack([rows, columns], axis=1).astype(np.int64),
        slide_size_wh=(SIDE * 224, SIDE * 224),
        slide_mpp=0.5,
        spot_diameter_px=224.0,
        thumbnail=np.full((336, 336, 3), 230, np.uint8),
        run={"bundle_id": "sha256:0f3a"},
    )


@pytest.fixture
def reader_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a reader, with two predictions."""
    (tmp_path / "predictions").mkdir()
    for name in ("slide", "other"):
        smooth_prediction().write_h5ad(tmp_path / "predictions" / f"{name}.h5ad")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_examples_of_the_page_run_in_order(
    reader_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mpl.use("Agg")
    names: dict[str, object] = {"__name__": "__main__"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the libraries say is not ours
        try:
            for example in blocks(PAGE, "python"):
                if "import decoupler" in example:
                    continue  # a large library, for one example; it was run by hand
                exec(compile(example, str(PAGE), "exec"), names)
        finally:
            mpl.pyplot.close("all")
    figures = {path.name for path in (reader_folder / "figures").iterdir()}
    assert figures == {"genes.png", "regions.png", "enrichment.png", "scores.png"}
    assert "other    144" in capsys.readouterr().out
