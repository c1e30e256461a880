import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from triplex_deploy.data import SectionEntry, read_dataset
from triplex_deploy.data.feature_matrix import read_feature_matrix
from triplex_deploy.data.space_ranger import read_visium_section
from triplex_deploy.errors import DatasetError


def test_headerless_positions_go_by_position(outs: Path) -> None:
    (section,) = read_dataset(outs, "visium")
    assert (section.name, section.patient) == ("S1", "S1")
    assert section.grid_rc.tolist() == [[0, 0], [0, 2], [0, 4], [1, 1]]
    assert section.level0_xy.tolist() == [[0, 0], [200, 0], [400, 0], [100, 173]]
    assert section.slide_mpp == pytest.approx(0.5, rel=1e-3)
    assert section.is_hexagonal


def test_repeated_symbols_are_added_and_other_feature_types_left_out(outs: Path) -> None:
    (section,) = read_dataset(outs, "visium")
    assert section.genes == ("GNAS", "TBCE")
    np.testing.assert_array_equal(section.counts.toarray(), [[2, 1], [1, 1], [0, 4], [5, 1]])


def test_header_decides_whatever_the_order_of_columns(outs: Path) -> None:
    expected = read_dataset(outs, "visium")[0]
    spatial = outs / "spatial"
    names = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"
    table = pd.read_csv(spatial / "tissue_positions_list.csv", names=names.split(","))
    (spatial / "tissue_positions_list.csv").unlink()
    table[table.columns[::-1]].to_csv(spatial / "tissue_positions.csv", index=False)
    (section,) = read_dataset(outs, "visium")
    np.testing.assert_array_equal(section.level0_xy, expected.level0_xy)
    np.testing.assert_array_equal(section.grid_rc, expected.grid_rc)


def test_parquet_positions_are_read(outs: Path) -> None:
    spatial = outs / "spatial"
    names = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres"
    table = pd.read_csv(spatial / "tissue_positions_list.csv", names=names.split(","))
    (spatial / "tissue_positions_list.csv").unlink()
    table.to_parquet(spatial / "tissue_positions.parquet")
    assert read_dataset(outs, "visium")[0].n_spots == 4


def test_exchanged_array_columns_are_noticed_by_their_scale(outs: Path) -> None:
    path = outs / "spatial" / "tissue_positions_list.csv"
    rows = [line.split(",") for line in path.read_text().splitlines()]
    path.write_text("\n".join(",".join([a, b, d, c, e, f]) for a, b, c, d, e, f in rows) + "\n")
    with pytest.raises(DatasetError, match="mixed up"):
        read_dataset(outs, "visium")


def test_several_sections_need_their_patients(outs: Path) -> None:
    shutil.copytree(outs, outs.parent / "S2")
    with pytest.raises(DatasetError, match="--patients"):
        read_dataset(outs.parent, "visium")
    listed = {"S1": SectionEntry("P10"), "S2": SectionEntry("P2")}
    sections = read_dataset(outs.parent, "visium", listed)
    assert [s.patient for s in sections] == ["P2", "P10"]


def test_missing_slide_says_where_to_put_it(outs: Path) -> None:
    (outs / "he.tif").unlink()
    with pytest.raises(DatasetError, match="full-resolution image"):
        read_dataset(outs, "visium")


def test_folder_without_output_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no Space Ranger output"):
        read_dataset(tmp_path, "visium")


def test_real_layout_with_hdf5_counts(shared_data: Path) -> None:
    folder = shared_data / "visium" / "scanpy_visium_1.0.0"
    slide = folder / "spatial" / "tissue_hires_image.png"
    section = read_visium_section(folder, "V1", SectionEntry("P1", slide))
    assert section.counts.shape == (section.n_spots, 100)
    assert section.n_spots > 80
    # 100 um between neighbors is about 138 px in this section
    assert section.slide_mpp == pytest.approx(0.725, abs=0.02)
    assert (section.grid_rc.sum(axis=1) % 2 == 0).all()


def test_hdf5_counts_equal_those_scanpy_reads(shared_data: Path) -> None:
    scanpy = pytest.importorskip("scanpy")
    folder = shared_data / "visium" / "scanpy_visium_1.0.0"
    ours = read_feature_matrix(folder)
    theirs = scanpy.read_10x_h5(folder / "filtered_feature_bc_matrix.h5")
    assert ours.spot_ids == tuple(theirs.obs_names)
    assert ours.genes == tuple(theirs.var_names)
    np.testing.assert_array_equal(ours.counts.toarray(), theirs.X.toarray())
