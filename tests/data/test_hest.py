import json
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix

from triplex_deploy.data import SectionEntry, read_dataset
from triplex_deploy.errors import DatasetError

XY = np.array([[100.0, 50], [300, 50], [200, 223], [400, 223]])
RC = np.array([[0, 0], [0, 2], [1, 1], [1, 3]])


def write_hest(root: Path, name: str, metadata: dict, xy: np.ndarray = XY) -> None:
    for folder in ("st", "wsis", "metadata"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    table = anndata.AnnData(
        X=csr_matrix(np.array([[1, 0], [2, 3], [0, 0], [4, 5]], np.float32)),
        obs=pd.DataFrame(
            {"in_tissue": [1, 1, 1, 0], "array_row": RC[:, 0], "array_col": RC[:, 1]},
            index=list("abcd"),
        ),
        var=pd.DataFrame(index=["GNAS", "FASN"]),
        obsm={"spatial": xy},
        uns={
            "spatial": {
                "ST": {
                    "images": {"downscaled_fullres": np.zeros((30, 50, 3), np.uint8)},
                    "scalefactors": {
                        "spot_diameter_fullres": 110.0,
                        "tissue_downscaled_fullres_scalef": 0.1,
                    },
                }
            }
        },
    )
    table.write_h5ad(root / "st" / f"{name}.h5ad")
    (root / "wsis" / f"{name}.tif").write_bytes(b"")
    (root / "metadata" / f"{name}.json").write_text(json.dumps(metadata))


def test_patient_and_scale_come_from_the_metadata(tmp_path: Path) -> None:
    write_hest(tmp_path, "TENX1", {"patient": "P1", "pixel_size_um_estimated": 0.5})
    (section,) = read_dataset(tmp_path, "hest")
    assert (section.name, section.patient, section.slide_mpp) == ("TENX1", "P1", 0.5)
    assert section.slide_path == tmp_path / "wsis" / "TENX1.tif"
    assert section.is_hexagonal
    np.testing.assert_array_equal(section.grid_rc, RC[:3])
    np.testing.assert_array_equal(section.level0_xy, XY[:3])
    np.testing.assert_array_equal(section.counts.toarray(), [[1, 0], [2, 3], [0, 0]])


def test_without_a_patient_the_section_list_is_asked_for(tmp_path: Path) -> None:
    write_hest(tmp_path, "TENX1", {"patient": None, "pixel_size_um_estimated": 0.5})
    with pytest.raises(DatasetError, match="--patients"):
        read_dataset(tmp_path, "hest")
    (section,) = read_dataset(tmp_path, "hest", {"TENX1": SectionEntry("P9", mpp=0.25)})
    assert (section.patient, section.slide_mpp) == ("P9", 0.25)


def test_centers_in_another_frame_are_refused(tmp_path: Path) -> None:
    metadata = {"patient": "P1", "pixel_size_um_estimated": 0.5}
    write_hest(tmp_path, "TENX1", metadata, xy=XY * 2)
    with pytest.raises(DatasetError, match="beyond the slide"):
        read_dataset(tmp_path, "hest")


def test_missing_pixel_size_is_named(tmp_path: Path) -> None:
    write_hest(tmp_path, "TENX1", {"patient": "P1"})
    with pytest.raises(DatasetError, match="no pixel size"):
        read_dataset(tmp_path, "hest")


def test_log_normalized_values_are_refused(shared_data: Path, tmp_path: Path) -> None:
    write_hest(tmp_path, "X1", {"patient": "P1", "pixel_size_um_estimated": 0.615})
    normalized = shared_data / "visium" / "squidpy_test" / "test_data.h5ad"
    (tmp_path / "st" / "X1.h5ad").write_bytes(normalized.read_bytes())
    with pytest.raises(DatasetError, match=r"normalized already|lattice"):
        read_dataset(tmp_path, "hest")
