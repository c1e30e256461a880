from pathlib import Path

import numpy as np
import pytest

from triplex_deploy.data import SectionEntry, read_dataset, read_section_list
from triplex_deploy.data.st import read_count_table
from triplex_deploy.errors import DatasetError

pytestmark = pytest.mark.lengthy


def test_sections_come_with_patient_scale_and_rounded_places(st_root: Path) -> None:
    sections = read_dataset(st_root, "st")
    assert [(s.name, s.patient) for s in sections] == [("A1", "A"), ("A2", "A"), ("B1", "B")]
    section = sections[0]
    assert section.slide_mpp == pytest.approx(2.0)
    assert section.grid_rc.tolist() == [[4, 7], [4, 8], [4, 9], [5, 7], [5, 8], [5, 9]]
    assert section.level0_xy[1].tolist() == [300.0, 100.0]
    assert section.spot_names[1] == "8x4"
    assert not section.is_hexagonal
    assert section.slide_path.name == "he.png"


def test_panel_counts_follow_the_panel_and_are_zero_for_an_unmeasured_gene(st_root: Path) -> None:
    section = read_dataset(st_root, "st")[0]
    np.testing.assert_array_equal(section.panel_counts(["FASN", "XIST", "GNAS"])[1], [4, 0, 8])
    np.testing.assert_array_equal(section.library[:2], [11, 12])


def test_spots_without_counts_and_counts_without_spots_drop_out(st_root: Path) -> None:
    counts = st_root / "ST-cnts" / "A1.tsv"
    lines = counts.read_text().splitlines()
    counts.write_text("\n".join([*lines[:3], "30x30\t1\t1\t1"]) + "\n")
    assert read_dataset(st_root, "st")[0].spot_names == ("7x4", "8x4")


def test_of_two_spots_rounding_to_one_place_the_nearer_stays(st_root: Path) -> None:
    spots = st_root / "ST-spotfiles" / "A1_selection.tsv"
    spots.write_text(spots.read_text() + "7.0\t4.0\t201\t101\n")
    section = read_dataset(st_root, "st")[0]
    assert section.level0_xy[0].tolist() == [201.0, 101.0]
    assert section.n_spots == 6


def test_section_list_chooses_sections_patients_and_scale(st_root: Path, tmp_path: Path) -> None:
    table = tmp_path / "sections.csv"
    table.write_text("section,patient,mpp\nA2,X,0.7\nB1,Y,\n")
    listed = read_section_list(table)
    assert listed == {"A2": SectionEntry("X", None, 0.7), "B1": SectionEntry("Y")}
    sections = read_dataset(st_root, "st", listed)
    assert [(s.name, s.patient) for s in sections] == [("A2", "X"), ("B1", "Y")]
    assert sections[0].slide_mpp == 0.7


def test_missing_counts_are_named(st_root: Path) -> None:
    (st_root / "ST-cnts" / "B1.tsv").unlink()
    with pytest.raises(DatasetError, match=r"B1\.tsv\.gz"):
        read_dataset(st_root, "st")


def test_places_given_as_counts_are_told(st_root: Path) -> None:
    with pytest.raises(DatasetError, match="lists places of spots; give the table of their counts"):
        read_count_table(st_root / "ST-spotfiles" / "A1_selection.tsv")


def test_second_image_is_refused(st_root: Path) -> None:
    (st_root / "ST-imgs" / "A" / "A1" / "mask.png").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"he\.png, mask\.png"):
        read_dataset(st_root, "st")


def test_normalized_values_are_refused(st_root: Path) -> None:
    counts = st_root / "ST-cnts" / "A1.tsv"
    counts.write_text(counts.read_text().replace("\t7\t", "\t7.5\t"))
    with pytest.raises(DatasetError, match="normalized already"):
        read_dataset(st_root, "st")


def test_swapped_rows_of_array_and_pixels_are_noticed_by_their_scale(st_root: Path) -> None:
    spots = st_root / "ST-spotfiles" / "A1_selection.tsv"
    lines = [line.split("\t") for line in spots.read_text().splitlines()]
    stretched = [lines[0]] + [[x, y, px, str(2 * int(py))] for x, y, px, py in lines[1:]]
    spots.write_text("\n".join("\t".join(line) for line in stretched) + "\n")
    with pytest.raises(DatasetError, match="mixed up"):
        read_dataset(st_root, "st")


def test_real_sections_keep_the_spots_of_the_inner_join(shared_data: Path) -> None:
    sections = read_dataset(shared_data / "her2st", "st")
    assert [(s.name, s.patient, s.n_spots) for s in sections] == [
        ("C2", "C", 187),
        ("C3", "C", 180),
        ("C4", "C", 184),
        ("C5", "C", 181),
    ]
    for section in sections:
        assert section.slide_mpp == pytest.approx(0.688, abs=0.001)
        assert len(section.genes) > 15_000
