"""Each layout gives the same numbers, whatever its tables are called, packed or marked as."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.test_hest import write_hest
from triplex_deploy.data import Section, feature_matrix, read_dataset, read_section_list
from triplex_deploy.data.measured import read_measured
from triplex_deploy.errors import DatasetError
from triplex_deploy.spots import read_spots

BOM = b"\xef\xbb\xbf"
FORMS: dict[str, Callable[[str], bytes]] = {
    "plain": str.encode,
    "byte order mark": lambda text: BOM + text.encode(),
    "lines of Windows": lambda text: BOM + text.replace("\n", "\r\n").encode(),
    "utf-16": lambda text: text.encode("utf-16"),
}


def packed(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def assert_same(found: tuple[Section, ...], expected: tuple[Section, ...]) -> None:
    assert [section.name for section in found] == [section.name for section in expected]
    for one, other in zip(found, expected, strict=True):
        assert one.genes == other.genes
        assert one.patient == other.patient
        np.testing.assert_array_equal(one.counts.toarray(), other.counts.toarray())
        np.testing.assert_array_equal(one.grid_rc, other.grid_rc)
        np.testing.assert_array_equal(one.level0_xy, other.level0_xy)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".tsv", ".tsv.gz", ".csv", ".csv.gz"])
def test_st(st_root: Path, suffix: str, form: str) -> None:
    expected = read_dataset(st_root, "st")
    counts = read_measured(st_root / "ST-cnts/A1.tsv").of(["FASN", "GNAS"])
    spots = read_spots(st_root / "ST-spotfiles/A1_selection.tsv")
    for folder in ("ST-cnts", "ST-spotfiles"):
        for path in sorted((st_root / folder).glob("*.tsv")):
            text = path.read_text()
            path.unlink()
            text = text.replace("\t", ",") if "csv" in suffix else text
            packed(path.with_name(path.stem + suffix), FORMS[form](text))
    assert_same(read_dataset(st_root, "st"), expected)
    measured = read_measured(st_root / f"ST-cnts/A1{suffix}")
    np.testing.assert_array_equal(measured.of(["FASN", "GNAS"]), counts)
    found = read_spots(st_root / f"ST-spotfiles/A1_selection{suffix}")
    np.testing.assert_array_equal(found.level0_xy, spots.level0_xy)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz"])
@pytest.mark.parametrize("name", ["tissue_positions_list", "tissue_positions"])
def test_positions(outs: Path, name: str, suffix: str, form: str) -> None:
    expected = read_dataset(outs, "visium")
    spots = read_spots(outs)
    path = outs / "spatial/tissue_positions_list.csv"
    text = path.read_text()
    path.unlink()
    header = "barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"
    text = text if name.endswith("list") else header + text
    packed(outs / "spatial" / f"{name}{suffix}", FORMS[form](text))
    assert_same(read_dataset(outs, "visium"), expected)
    assert read_spots(outs).barcodes == spots.barcodes


def unpacked_matrix(outs: Path) -> dict[str, str]:
    """Remove the folder of the matrix, and return its files without the antibody."""
    folder = outs / "filtered_feature_bc_matrix"
    texts = {path.stem: gzip.decompress(path.read_bytes()).decode() for path in folder.glob("*.gz")}
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    lines = texts["matrix.mtx"].splitlines()
    head, entries = lines[0], [line.split() for line in lines if not line.startswith("%")][1:]
    moved = [(int(gene) - (gene == "4"), *rest) for gene, *rest in entries if gene != "3"]
    body = "".join(" ".join(map(str, entry)) + "\n" for entry in moved)
    texts["matrix.mtx"] = f"{head}\n3 4 {len(moved)}\n{body}"
    features = [line for line in texts["features.tsv"].splitlines() if "Antibody" not in line]
    texts["features.tsv"] = "".join(f"{line}\n" for line in features)
    return texts


@pytest.mark.parametrize("form", ["plain", "byte order mark", "lines of Windows"])
@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("below", "features", "columns"),
    [
        ("filtered_feature_bc_matrix", "features.tsv", 3),
        ("filtered_feature_bc_matrix", "features.tsv", 2),
        ("filtered_feature_bc_matrix", "genes.tsv", 2),
        ("filtered_gene_bc_matrices/GRCh38", "genes.tsv", 2),
        ("filtered_gene_bc_matrices/GRCh38", "genes.tsv", 1),
        ("filtered_gene_bc_matrices", "genes.tsv", 2),
    ],
)
def test_matrix_folder(
    outs: Path, below: str, features: str, columns: int, end: str, form: str
) -> None:
    expected = read_dataset(outs, "visium")
    texts = unpacked_matrix(outs)
    cells = [line.split("\t") for line in texts.pop("features.tsv").splitlines()]
    kept = [row[1:2] if columns == 1 else row[:columns] for row in cells]
    texts[features] = "".join("\t".join(row) + "\n" for row in kept)
    folder = outs / below
    folder.mkdir(parents=True)
    for name, text in texts.items():
        packed(folder / f"{name}{end}", FORMS[form](text))
    assert_same(read_dataset(outs, "visium"), expected)
    np.testing.assert_array_equal(
        read_measured(outs).of(["TBCE"]), expected[0].panel_counts(["TBCE"])
    )


def test_two_genomes_are_refused(outs: Path) -> None:
    texts = unpacked_matrix(outs)
    for genome in ("GRCh38", "mm10"):
        folder = outs / "filtered_gene_bc_matrices" / genome
        folder.mkdir(parents=True)
        for name, text in texts.items():
            (folder / name.replace("features", "genes")).write_text(text)
    with pytest.raises(DatasetError, match="needs the counts of one genome, found GRCh38, mm10"):
        read_dataset(outs, "visium")


@pytest.mark.parametrize("genomes", [("GRCh38",), ("GRCh38", "mm10")])
def test_hdf5_of_cell_ranger_2(outs: Path, genomes: tuple[str, ...]) -> None:
    (expected,) = read_dataset(outs, "visium")
    unpacked_matrix(outs)
    counts = expected.counts.tocsr()
    with h5py.File(outs / "filtered_gene_bc_matrices_h5.h5", "w") as file:
        for genome in genomes:
            group = file.create_group(genome)
            group["barcodes"] = np.array(list("abcd"), "S")
            group["gene_names"] = group["genes"] = np.array(expected.genes, "S")
            group["data"], group["shape"] = counts.data.astype(np.int32), counts.shape[::-1]
            group["indices"], group["indptr"] = counts.indices, counts.indptr
    if len(genomes) > 1:
        with pytest.raises(DatasetError, match="one genome, found GRCh38, mm10"):
            read_dataset(outs, "visium")
    else:
        assert_same(read_dataset(outs, "visium"), (expected,))


@pytest.mark.parametrize(
    "name", ["matrix.mtx.gz", "features.tsv.gz", "../filtered_feature_bc_matrix.h5"]
)
def test_a_pipe_in_a_matrix_folder_is_named(outs: Path, name: str) -> None:
    path = (outs / "filtered_feature_bc_matrix" / name).resolve()
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(DatasetError, match=rf"{path.name}: is a pipe"):
        read_dataset(outs, "visium")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["patients.csv", "patients.csv.gz", "patients.tsv"])
def test_list_of_sections(tmp_path: Path, name: str, form: str) -> None:
    text = "section,patient,mpp\nA1,P1,0.5\n"
    text = text.replace(",", "\t") if name.endswith("tsv") else text
    packed(tmp_path / name, FORMS[form](text))
    (entry,) = read_section_list(tmp_path / name).values()
    assert (entry.patient, entry.mpp) == ("P1", 0.5)


def test_hest_metadata_with_a_byte_order_mark(tmp_path: Path) -> None:
    write_hest(tmp_path, "T1", {"patient": "P1", "pixel_size_um_estimated": 0.5})
    path = tmp_path / "metadata/T1.json"
    path.write_bytes(BOM + path.read_bytes())
    assert read_dataset(tmp_path, "hest")[0].patient == "P1"


def test_a_name_that_is_too_long_is_one_error() -> None:
    with pytest.raises(DatasetError, match="name too long"):
        read_dataset("x" * 300, "visium")
    with pytest.raises(DatasetError, match="name too long"):
        read_measured(Path("x" * 300))


def test_a_list_of_genes_that_inflates_without_end_is_refused(
    outs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_matrix, "MAX_LIST_BYTES", 1 << 20)
    path = outs / "filtered_feature_bc_matrix/features.tsv.gz"
    path.write_bytes(gzip.compress(b"E1\tG1\tGene Expression\n" * 500_000))
    with pytest.raises(DatasetError, match=r"features\.tsv\.gz: longer than 1 MiB"):
        feature_matrix.read_feature_matrix(outs)


def test_names_of_columns_cannot_break_the_line(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text('section,patient,"a\nb"\nA1,P1,0\n')
    with pytest.raises(DatasetError, match=r"\['section', 'patient', 'a\\nb'\]; use section"):
        read_section_list(tmp_path / "list.csv")
