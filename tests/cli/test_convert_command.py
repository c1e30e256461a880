import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from triplex_deploy.outputs import Prediction


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A prediction of four spots and three genes."""
    rows, columns = np.divmod(np.arange(4), 2)
    prediction = Prediction(
        slide_name="my slide",
        expression=np.arange(12, dtype=np.float32).reshape(4, 3),
        genes=("GNAS", "FASN", "ERBB2"),
        level0_xy=np.stack([columns * 100.0 + 50, rows * 100.0 + 50], axis=1),
        grid_rc=np.stack([rows, columns], axis=1).astype(np.int64),
        slide_size_wh=(200, 200),
        slide_mpp=0.5,
        spot_diameter_px=100.0,
        thumbnail=np.full((20, 20, 3), 200, np.uint8),
        run={"layout": "grid", "label_transform": {"library": "none", "smoothing": "3x3"}},
    )
    prediction.write_h5ad(tmp_path / "my slide.h5ad")
    return tmp_path / "my slide.h5ad"


def test_chosen_genes_are_written_where_asked(invoke, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "genes.csv"
    done = invoke("convert", table, "--to", "csv", "--genes", "ERBB2, GNAS", "--out", out)
    assert done.status == 0
    assert done.out == (f"{out}: 4 spots, 2 genes\nvalues: counts, mean of 3 × 3 spots\n")
    read = pd.read_csv(out)
    assert list(read)[-2:] == ["ERBB2", "GNAS"]
    assert read["ERBB2"].to_list() == [2, 5, 8, 11]


def test_the_file_lies_beside_the_prediction_by_default(invoke, table: Path) -> None:
    done = invoke("convert", table, "--to", "ome-tiff", "--pixel-um", "5", "--json")
    path = table.with_name("my slide.ome.tif")
    assert json.loads(done.out) == {
        "file": str(path),
        "format": "ome-tiff",
        "spots": 4,
        "genes": 3,
        "units": "counts, mean of 3 × 3 spots",
    }
    assert path.is_file()


def test_mistakes_are_one_line(invoke, table: Path, tmp_path: Path) -> None:
    wrong = invoke("convert", table, "--to", "csv", "--genes", "FASM")
    assert (wrong.status, wrong.out) == (1, "")
    assert wrong.err == "error: gene FASM: it is not predicted; did you mean FASN?\n"
    kept = invoke("convert", table, "--to", "csv", "--out", table)
    assert kept.status == 1
    assert "is not a csv written by triplex-deploy; choose another name to keep it" in kept.err
    assert invoke("convert", table, "--to", "xlsx").status == 2
    assert [path.name for path in tmp_path.iterdir()] == ["my slide.h5ad"]


def test_the_folder_of_out_is_made(invoke, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "deep" / "a.csv"
    assert invoke("convert", table, "--to", "csv", "--out", out).status == 0
    assert out.is_file()
    below = out / "b.csv"
    refused = invoke("convert", table, "--to", "csv", "--out", below)
    assert refused.status == 1
    assert "a.csv is not a folder" in refused.err
