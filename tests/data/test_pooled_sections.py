"""Sections of Visium HD and Xenium, pooled into spots."""

import logging
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tests.vendor_outputs import GENES, write_slide, write_visium_hd, write_xenium
from triplex_deploy.data import SectionEntry, read_dataset
from triplex_deploy.data.pooled_section import sum_by_spot
from triplex_deploy.data.transcripts import pool_transcripts
from triplex_deploy.errors import DatasetError
from triplex_deploy.spots import Pooling
from triplex_deploy.spots.pooling import places_of_bins


@pytest.fixture
def hd(tmp_path: Path) -> Path:
    write_visium_hd(tmp_path / "hd")
    write_slide(tmp_path / "hd" / "he.tif")
    return tmp_path / "hd"


@given(
    lattice=st.sampled_from(["square", "hexagonal"]),
    pool_um=st.floats(20, 300),
    seed=st.integers(0, 100),
)
def test_pooling_conserves_the_counts_of_every_gene(
    lattice: str, pool_um: float, seed: int
) -> None:
    random = np.random.default_rng(seed)
    xy_um = random.uniform(0, 1000, (200, 2))
    counts = csr_array(random.poisson(1, (200, 3)))
    rows = random.permutation(200)
    pooled = places_of_bins(Pooling(pool_um, lattice), xy_um, bin_um=1000)  # all are in tissue
    assert (pooled.spot_of >= 0).all()
    summed = sum_by_spot(counts, rows, pooled)
    np.testing.assert_array_equal(summed.sum(axis=0), counts.sum(axis=0))
    np.testing.assert_array_equal(
        summed.sum(axis=1), np.bincount(pooled.spot_of, counts.sum(axis=1)[rows])
    )


def test_bins_of_both_sizes_give_the_same_counts(hd: Path) -> None:
    (fine,) = read_dataset(hd, "visium-hd", pooling=Pooling(80))
    (coarse,) = read_dataset(hd, "visium-hd", pooling=Pooling(80, bin_um=16))
    # The bins start at (16, 32) um, so squares of 80 um have borders between bins of 16 um.
    np.testing.assert_array_equal(fine.counts.toarray(), coarse.counts.toarray())
    assert fine.genes == GENES
    assert (fine.slide_path.name, fine.slide_mpp) == ("he.tif", 0.5)
    assert (fine.name, fine.patient, fine.is_hexagonal) == ("hd", "hd", False)


def test_a_spot_holds_the_sum_of_its_bins(tmp_path: Path) -> None:
    counts = write_visium_hd(tmp_path / "hd").toarray().reshape(50, 50, 3)
    write_slide(tmp_path / "hd" / "he.tif")
    (section,) = read_dataset(tmp_path / "hd", "visium-hd", pooling=Pooling(80))
    at = section.grid_rc.tolist().index([1, 1])  # from 80 to 160 um
    expected = counts[6:16, 8:18].sum(axis=(0, 1))  # rows from 32 um, columns from 16 um
    np.testing.assert_array_equal(section.counts.toarray()[at], expected)
    assert section.level0_xy[at].tolist() == [240, 240]


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("newer", [True, False])
def test_good_transcripts_of_genes_are_counted(
    tmp_path: Path, packed: bool, newer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "triplex_deploy")
    transcripts = write_xenium(tmp_path / "x", packed, newer)
    write_slide(tmp_path / "x" / "he.tif")
    (section,) = read_dataset(tmp_path / "x", "xenium", pooling=Pooling(50))
    assert section.genes == tuple(sorted(GENES))
    assert section.slide_mpp == pytest.approx(0.5)
    good = transcripts[transcripts["feature_name"].isin(GENES) & (transcripts["qv"] >= 20)]
    total = good["feature_name"].value_counts()[sorted(GENES)].to_numpy()
    # All spots of the region of 600 x 400 pixels are in tissue: it begins at borders of spots.
    np.testing.assert_array_equal(section.gene_totals().totals, total)
    control = int((~transcripts["feature_name"].isin(GENES)).sum())
    low = len(transcripts) - control - len(good)
    assert f"left out are {control} of controls and blank codewords, {low} with" in caplog.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(side=st.integers(1, 9))
def test_counts_of_transcripts_are_conserved_in_spots_of_any_size(
    xenium: tuple[Path, int], side: int
) -> None:
    folder, total = xenium

    def spot_of(xy_um: np.ndarray) -> np.ndarray:
        return (np.abs(xy_um[:, 0]) // 10).astype(np.int64) % side

    _, counts = pool_transcripts(folder, spot_of, side)
    assert counts.sum() == total


@pytest.fixture(scope="module")
def xenium(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    folder = tmp_path_factory.mktemp("vendor") / "x"
    table = write_xenium(folder)
    return folder, int((table["feature_name"].isin(GENES) & (table["qv"] >= 20)).sum())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e9])
def test_a_transcript_at_no_place_is_refused(tmp_path: Path, value: float) -> None:
    table = write_xenium(tmp_path / "x")
    table.loc[5, "x_location"] = value
    table.to_parquet(tmp_path / "x" / "transcripts.parquet")
    with pytest.raises(DatasetError, match="x_location"):
        read_dataset(tmp_path / "x", "xenium", pooling=Pooling(50))


@pytest.mark.parametrize("name", ["transcripts.parquet", "cells.parquet"])
def test_damaged_tables_are_refused(tmp_path: Path, name: str) -> None:
    write_xenium(tmp_path / "x")
    path = tmp_path / "x" / name
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], b"PAR1" + bytes(200) + b"PAR1"):
        path.write_bytes(damaged)
        with pytest.raises(DatasetError, match=name):
            read_dataset(tmp_path / "x", "xenium", pooling=Pooling(50))


def test_a_table_without_its_columns_is_refused(tmp_path: Path) -> None:
    table = write_xenium(tmp_path / "x")
    table.drop(columns="qv").to_parquet(tmp_path / "x" / "transcripts.parquet")
    with pytest.raises(DatasetError, match="no column qv"):
        read_dataset(tmp_path / "x", "xenium", pooling=Pooling(50))


def test_several_sections_have_alignments_of_their_own(tmp_path: Path) -> None:
    for name in ("s1", "s2"):
        write_xenium(tmp_path / name)
        write_slide(tmp_path / name / "he.tif")
    listed = {name: SectionEntry("p") for name in ("s1", "s2")}
    sections = read_dataset(tmp_path, "xenium", listed, Pooling(100))
    assert [section.name for section in sections] == ["s1", "s2"]
    given_one = Pooling(100, alignment=tmp_path / "s1" / "he_imagealignment.csv")
    with pytest.raises(DatasetError, match="belongs to one of the 2 sections"):
        read_dataset(tmp_path, "xenium", listed, given_one)


def test_bins_read_as_visium_are_told(hd: Path) -> None:
    for below in ("", "outs/binned_outputs/square_008um"):
        with pytest.raises(DatasetError, match="--format visium-hd --bin 8 --pool-um 100"):
            read_dataset(hd / below, "visium")
    with pytest.raises(DatasetError, match="--pool-um 100"):
        read_dataset(hd, "visium-hd")
    with pytest.raises(DatasetError, match=r"no experiment\.xenium"):
        read_dataset(hd, "xenium", pooling=Pooling(100))


def test_tissue_that_fills_no_spot_is_told(hd: Path) -> None:
    with pytest.raises(DatasetError, match="smaller --pool-um"):
        read_dataset(hd, "visium-hd", pooling=Pooling(5000))
