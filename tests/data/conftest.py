"""Small datasets in each layout, written by the tests."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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
