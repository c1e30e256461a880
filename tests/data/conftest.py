"""Small datasets in each layout, written by the tests."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import mmwrite
from scipy.sparse import coo_array


@pytest.fixture
def st_root(tmp_path: Path) -> Path:
    """Patients A and B with sections A1, A2, B1 of 3 x 2 spots, pitch 100 px = 200 um."""
    root = tmp_path / "st"
    for name in ("A1", "A2", "B1"):
        write_st_section(root, name[0], name)
    return root


def write_st_section(root: Path, patient: str, name: str) -> None:
    images = root / "ST-imgs" / patient / name
    images.mkdir(parents=True)
    Image.fromarray(np.full((400, 500, 3), 200, np.uint8)).save(images / "he.png")
    (root / "ST-cnts").mkdir(exist_ok=True)
    (root / "ST-spotfiles").mkdir(exist_ok=True)
    places = [(x, y) for y in (4, 5) for x in (7, 8, 9)]
    rows = [f"{x}x{y}\t{x}\t{y}\t0" for x, y in places]
    (root / "ST-cnts" / f"{name}.tsv").write_text("\n".join(["\tGNAS\tFASN\tMUC1", *rows]) + "\n")
    spots = [f"{x}.1\t{y - 0.2:g}\t{100 * x - 500}\t{100 * y - 300}" for x, y in places]
    (root / "ST-spotfiles" / f"{name}_selection.tsv").write_text(
        "\n".join(["x\ty\tpixel_x\tpixel_y", *spots]) + "\n"
    )


@pytest.fixture
def outs(tmp_path: Path) -> Path:
    """A 2 x 3 hexagonal array, 100 um = 200 px; spot e lies outside the tissue."""
    folder = tmp_path / "S1"
    (folder / "spatial").mkdir(parents=True)
    (folder / "he.tif").write_bytes(b"")
    rows = [
        f"{barcode},{int(barcode != 'e')},{row},{col},{round(row * 173.205)},{col * 100}"
        for barcode, row, col in zip("abcdef", [0, 0, 0, 1, 1, 1], [0, 2, 4, 1, 3, 5], strict=True)
    ]
    (folder / "spatial" / "tissue_positions_list.csv").write_text("\n".join(rows) + "\n")
    _write_mtx(folder / "filtered_feature_bc_matrix")
    return folder


def _write_mtx(folder: Path) -> None:
    folder.mkdir()
    matrix = coo_array(np.array([[5, 0, 1, 2], [1, 1, 1, 1], [7, 7, 7, 7], [0, 3, 0, 0]]))
    mmwrite(folder / "matrix.mtx", matrix)
    plain = folder / "matrix.mtx"
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    features = [
        "ENSG1\tGNAS\tGene Expression",
        "ENSG2\tTBCE\tGene Expression",
        "AB1\tCD3\tAntibody Capture",
        "ENSG3\tTBCE\tGene Expression",
    ]
    (folder / "features.tsv.gz").write_bytes(gzip.compress("\n".join(features).encode()))
    (folder / "barcodes.tsv.gz").write_bytes(gzip.compress(b"d\nc\nb\na"))
